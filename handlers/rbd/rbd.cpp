// SPDX-License-Identifier: MIT
//
// The rbd handler: an image in a Ceph cluster, by librbd, which completes the requests on threads
// of its own.

#include <rados/librados.h>
#include <rbd/librbd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <ublk/handler.hpp>

#include "cluster.h"
#include "failure.h"
#include "image.h"
#include "ownership.h"

namespace rbd {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ublk::Io;

constexpr uint32_t kBlock = 512;
constexpr uint32_t kMaxDiscard = 1u << 30;
constexpr uint32_t kMaxWriteZeroes = 128u << 20;
constexpr uint32_t kMaxHint = 64u << 20;  // of the preferred I/O

class Rbd;

// A request that librbd has, in its scratch.
struct Operation {
  Rbd* device;
  uint64_t id;
  int32_t success;   // the result if librbd's is 0
  bool flush_after;  // FUA
};

class Rbd final : public ublk::Handler {
 public:
  static constexpr const char* kName = "rbd";
  static constexpr const char* kSummary = "an image of a Ceph cluster";
  static constexpr ublk_model kModel = UBLK_MODEL_RING;
  static constexpr uint32_t kScratchSize = sizeof(Operation);
  static constexpr ublk_option kOptions[] = {
      ublk::string_option("pool", "The pool that has the image.", {.required = true}),
      ublk::string_option("namespace", "The namespace of the pool; without it, the pool's own."),
      ublk::string_option("image", "The image's name.", {.required = true}),
      ublk::string_option("snapshot", "A snapshot of the image, which makes a read-only device."),
      ublk::string_option("id", "The Ceph user, without \"client.\".", {.default_value = "admin"}),
      ublk::path_option("conf", "Ceph's configuration: monitors, keyring.",
                        {.default_value = "/etc/ceph/ceph.conf"}),
      ublk::bool_option("exclusive",
                        "Takes the image's exclusive lock, if it has that feature, and keeps it.",
                        {.default_value = "true"}),
      ublk::integer_option("connect_timeout", "Seconds for the monitors to answer.",
                           {.default_value = "15", .minimum = 1, .maximum = 50}),
  };

  explicit Rbd(const ublk::OpenArgs& args);
  ~Rbd() override;
  void geometry(ublk_geometry& geometry) override;
  void fence(milliseconds timeout) override;

  int read(Io& io) override;
  int write(Io& io) override;
  int flush(Io& io) override;
  int discard(Io& io) override;
  int write_zeroes(Io& io) override;

 private:
  void log(uint32_t level, const std::string& text) const {
    host_.log(device_, level, "%s: %s", image_.text().c_str(), text.c_str());
  }
  void check_settings() const;
  void watch();
  void choose_discards();
  static void header_changed(void* device);
  template <class Start>
  int start(Operation& operation, Start start);
  template <class Start>
  int submit(Io& io, uint32_t success, Start start);
  static void ended(rbd_completion_t completion, void* operation);
  void complete(Operation& operation, int64_t result);
  void refused(int error);
  void set_trouble(const std::string& text);

  const ublk_host& host_;
  ublk_device* const device_;
  const bool read_only_;
  const bool recovering_;
  Image image_;
  std::optional<Ownership> ownership_;  // if it is not read-only
  uint32_t discard_granularity_ = kBlock;
  bool exclusive_ = false;  // it takes the lock before the first I/O, and keeps it
  bool cached_ = false;     // librbd confirms writes before the OSDs have them
  uint64_t watch_ = 0;
  bool watches_ = false;
  std::atomic<uint64_t> size_;
  std::atomic<bool> refused_{false};
};

// -------------------------------------------------------------- open, size --

ImageName image_name(const ublk::OpenArgs& args) {
  return {args.text("pool"), args.text("namespace"), args.text("image"), args.text("snapshot")};
}

// With another client if this process' is refused by the cluster.
Image opened_image(const ublk::OpenArgs& args, bool read_only) {
  const Identity identity = {args.text("conf"), args.text("id")};
  const seconds limit(args.number("connect_timeout"));
  try {
    return {Cluster::shared(identity, limit), image_name(args), read_only, limit};
  } catch (const std::system_error& e) {
    if (e.code().value() != ESHUTDOWN) throw;
    return {Cluster::shared(identity, limit), image_name(args), read_only, limit};
  }
}

Rbd::Rbd(const ublk::OpenArgs& args)
    : host_(args.host()),
      device_(args.device()),
      read_only_(args.read_only() || args.is_set("snapshot")),
      recovering_(args.recovering()),
      image_(opened_image(args, read_only_)),
      size_(image_.size()) {
  if (size_ < kBlock)
    throw std::invalid_argument(image_.text() + ": the image has " + std::to_string(size_) +
                                " bytes, less than a block of " + std::to_string(kBlock));
  check_settings();
  if (!read_only_) {
    const bool has_lock = image_.has_feature(RBD_FEATURE_EXCLUSIVE_LOCK);
    exclusive_ = args.boolean("exclusive") && has_lock;
    if (args.boolean("exclusive") && !has_lock)
      log(UBLK_LOG_WARNING,
          "the image has no exclusive-lock feature: nothing keeps others from writing to it");
    cached_ = image_.is_on("rbd_cache");
    if (cached_)
      log(UBLK_LOG_WARNING,
          "the image's own settings turn librbd's cache on: data that was not flushed is lost if "
          "the runner is killed");
    ownership_.emplace(image_, args.device_name(), exclusive_);
    if (!recovering_) ownership_->take();
  }
  watch();
  choose_discards();
}

Rbd::~Rbd() {
  if (watches_) rbd_update_unwatch(image_.get(), watch_);
  if (cached_) rbd_flush(image_.get());
}

// Cluster has set them, but an image's own and its pool's go before.
void Rbd::check_settings() const {
  const auto expect = [this](const char* name) {
    if (!image_.is_on(name))
      throw std::invalid_argument(image_.text() + ": the image or its pool has the setting " +
                                  name + " = " + image_.setting(name) + ", expected true");
  };
  expect("rbd_non_blocking_aio");
  if (read_only_) return;
  expect("rbd_disable_zero_copy_writes");
  expect("rbd_blocklist_on_break_lock");
}

// A read-only image has no watch.
void Rbd::watch() {
  if (read_only_) return;
  uint64_t before = size_;
  if (const int error = rbd_update_watch(image_.get(), &watch_, header_changed, this); error < 0)
    fail(error, image_.text() + ": can't watch the image");
  watches_ = true;
  // It may have changed before; what header_changed() has said since is newer.
  size_.compare_exchange_strong(before, image_.size());
}

// librbd leaves out what is no multiple of that in the discards of an object.
void Rbd::choose_discards() {
  if (!image_.is_on("rbd_skip_partial_discard")) return;
  const uint64_t bytes =
      std::strtoull(image_.setting("rbd_discard_granularity_bytes").c_str(), nullptr, 10);
  discard_granularity_ = static_cast<uint32_t>(std::clamp<uint64_t>(
      std::bit_floor(bytes), kBlock, std::min<uint64_t>(image_.object_size(), kMaxHint)));
}

// On a thread of librbd.
void Rbd::header_changed(void* device) {
  Rbd& self = *static_cast<Rbd*>(device);
  uint64_t size = 0;
  if (rbd_get_size(self.image_.get(), &size) < 0 || size == self.size_.exchange(size)) return;
  self.host_.size_changed(self.device_, size / kBlock * kBlock);
}

void Rbd::geometry(ublk_geometry& geometry) {
  geometry.size = size_ / kBlock * kBlock;
  geometry.logical_block_size = kBlock;
  const uint64_t stripe = image_.stripe_unit();
  if (std::has_single_bit(stripe) && stripe > geometry.physical_block_size)
    geometry.io_opt = static_cast<uint32_t>(std::min<uint64_t>(stripe, kMaxHint));
  geometry.max_discard_size = kMaxDiscard;
  geometry.max_write_zeroes_size = kMaxWriteZeroes;
  geometry.discard_granularity = discard_granularity_;
  if (read_only_) {
    geometry.flags |= UBLK_GEOMETRY_READ_ONLY;
    geometry.flags &= ~uint32_t{UBLK_GEOMETRY_DISCARD | UBLK_GEOMETRY_WRITE_ZEROES};
  }
  if (cached_)
    geometry.flags |= UBLK_GEOMETRY_FUA;
  else
    geometry.flags &= ~uint32_t{UBLK_GEOMETRY_FLUSH};
}

void Rbd::fence(milliseconds) {
  if (recovering_ && ownership_) ownership_->take_over();
}

// ---------------------------------------------------------------- requests --

// `start` gives the completion to librbd.
template <class Start>
int Rbd::start(Operation& operation, Start start) {
  rbd_completion_t completion;
  int error = rbd_aio_create_completion(&operation, ended, &completion);
  if (error < 0) return error;
  error = start(completion);
  if (error < 0) rbd_aio_release(completion);
  return error;
}

template <class Start>
int Rbd::submit(Io& io, uint32_t success, Start start_io) {
  if (refused_.load(std::memory_order_relaxed)) return -ESHUTDOWN;
  Operation& operation = io.scratch<Operation>();
  operation = {this, io.id(), static_cast<int32_t>(success), cached_ && io.fua()};
  const int error = start(operation, start_io);
  return error < 0 ? error : UBLK_PENDING;
}

int Rbd::read(Io& io) {
  return submit(io, 0, [this, &io](rbd_completion_t completion) {
    return rbd_aio_read(image_.get(), io.offset(), io.length(), reinterpret_cast<char*>(io.data()),
                        completion);
  });
}

int Rbd::write(Io& io) {
  return submit(io, io.length(), [this, &io](rbd_completion_t completion) {
    return rbd_aio_write(image_.get(), io.offset(), io.length(),
                         reinterpret_cast<const char*>(io.data()), completion);
  });
}

int Rbd::flush(Io& io) {
  return submit(io, 0, [this](rbd_completion_t completion) {
    return rbd_aio_flush(image_.get(), completion);
  });
}

int Rbd::discard(Io& io) {
  return submit(io, 0, [this, &io](rbd_completion_t completion) {
    return rbd_aio_discard(image_.get(), io.offset(), io.length(), completion);
  });
}

int Rbd::write_zeroes(Io& io) {
  const int flags = io.no_unmap() ? RBD_WRITE_ZEROES_FLAG_THICK_PROVISION : 0;
  return submit(io, 0, [this, &io, flags](rbd_completion_t completion) {
    return rbd_aio_write_zeroes(image_.get(), io.offset(), io.length(), completion, flags, 0);
  });
}

// On a thread of librbd.
void Rbd::ended(rbd_completion_t completion, void* operation) {
  Operation& self = *static_cast<Operation*>(operation);
  const int64_t result = rbd_aio_get_return_value(completion);
  rbd_aio_release(completion);
  self.device->complete(self, result);
}

// Once the request is completed the device may be closed.
void Rbd::complete(Operation& operation, int64_t result) {
  if (result >= 0 && operation.flush_after) {
    operation.flush_after = false;
    result = start(operation, [this](rbd_completion_t completion) {
      return rbd_aio_flush(image_.get(), completion);
    });
    if (result >= 0) return;
  }
  if (result == -ESHUTDOWN || (result == -EROFS && exclusive_)) refused(static_cast<int>(result));
  host_.complete(operation.id, static_cast<int32_t>(result == 0 ? operation.success : result));
}

// All I/O fails from now on: it could not tell any more what others have written.
void Rbd::refused(int error) {
  if (refused_.exchange(true)) return;
  if (error == -ESHUTDOWN) image_.cluster().retire();
  const std::string text = (error == -ESHUTDOWN ? "the cluster has blocklisted this client, " +
                                                      image_.cluster().address()
                                                : std::string("the exclusive lock is lost")) +
                           ": all I/O fails until the device is restarted";
  log(UBLK_LOG_ERROR, text);
  set_trouble(text);
}

// Runners before it do without.
void Rbd::set_trouble(const std::string& text) {
  if (host_.struct_size > offsetof(ublk_host, set_trouble))
    host_.set_trouble(device_, "%s", text.c_str());
}

}  // namespace
}  // namespace rbd

UBLK_HANDLER(rbd::Rbd)
