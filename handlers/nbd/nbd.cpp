// SPDX-License-Identifier: MIT
//
// The nbd handler: a disk on an NBD server, over connections that are made anew when they are lost.

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <ublk/handler.hpp>
#include <vector>

#include "disk.h"
#include "queue.h"
#include "unix_orphans.h"

namespace nbd {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using ublk::Io;

constexpr uint32_t kMinBlock = 512;
constexpr uint32_t kMaxBlock = 4096;
constexpr uint32_t kMaxRange = 1u << 30;  // of discard and write-zeroes
constexpr milliseconds kFenceInterval{20};

// The kernel gives a device no more queues than it may ever have CPUs.
uint32_t most_queues() {
  return static_cast<uint32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_CONF)));
}

class Nbd final : public ublk::Handler {
 public:
  static constexpr const char* kName = "nbd";
  static constexpr const char* kSummary = "an export of an NBD server";
  static constexpr ublk_model kModel = UBLK_MODEL_RING;
  static constexpr uint32_t kScratchSize = sizeof(Command);
  static constexpr ublk_option kOptions[] = {
      ublk::string_option("uri",
                          "The export: nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH or "
                          "nbd+vsock://CID:PORT/EXPORT; nbds for TLS.",
                          {.required = true}),
      ublk::integer_option("connections",
                           "Connections to the server, spread over the queues; without it, one for "
                           "each queue if the server takes several, else one.",
                           {.minimum = 1, .maximum = 64}),
      ublk::integer_option("connect_timeout",
                           "Seconds for the server to answer when it is connected to.",
                           {.default_value = "10", .minimum = 1, .maximum = 50}),
      ublk::integer_option("reconnect_timeout",
                           "Seconds that I/O waits for a lost server to come back before it fails.",
                           {.default_value = "60", .maximum = 86400}),
      ublk::bool_option("structured_replies",
                        "Lets the server leave out zeroes of what is read; without it some "
                        "servers answer a read at less cost.",
                        {.default_value = "true"}),
      ublk::bool_option("write_through",
                        "Has the server make each write durable (FUA), so that none is lost with "
                        "it.",
                        {.default_value = "false"}),
  };

  explicit Nbd(const ublk::OpenArgs& args);
  void geometry(ublk_geometry& geometry) override;
  void fence(milliseconds timeout) override;

  void* open_queue(ublk::HandlerQueue queue) override;
  int close_queue(ublk::HandlerQueue queue, void* queue_data) override;

  int read(Io& io) override { return submit(io); }
  int write(Io& io) override { return submit(io); }
  int flush(Io& io) override { return submit(io); }
  int discard(Io& io) override { return submit(io); }
  int write_zeroes(Io& io) override { return submit(io); }
  void cancel(ublk::HandlerQueue queue, ublk_request& request) override;

 private:
  void choose_connections(const ublk::OpenArgs& args);
  void load_unix_diag() const;
  void connect_others(bool all);
  void choose_blocks();
  bool is_at_work_for_others() const;
  int submit(Io& io) const;

  Disk disk_;
  const bool write_through_;
  const bool read_only_;
  const bool recovering_;
  uint32_t max_queues_ = 0;
  uint32_t nr_queues_;
  uint32_t connections_ = 0;
  // Connected when the device was opened, for the queues: number n is for queue n modulo
  // nr_queues_. Those that are not here the queues make.
  std::vector<Handle> handles_;
};

// ------------------------------------------------------------- open, size --

Nbd::Nbd(const ublk::OpenArgs& args)
    : disk_{.host = args.host(),
            .device = args.device(),
            .server = std::make_shared<const Server>(args.text("uri"),
                                                     args.boolean("structured_replies")),
            .connect_timeout = seconds(args.number("connect_timeout")),
            .reconnect_timeout = seconds(args.number("reconnect_timeout")),
            .resolver = nullptr,
            .first = {}},
      write_through_(args.boolean("write_through")),
      read_only_(args.read_only()),
      recovering_(args.recovering()),
      nr_queues_(std::min(args.nr_queues(), most_queues())) {
  handles_.push_back(disk_.server->connect(disk_.connect_timeout));
  disk_.first = Export(handles_.front().get());
  disk_.size = disk_.first.size;
  if (disk_.server->begin_blocks()) disk_.resolver = Resolver::shared();
  choose_blocks();
  choose_connections(args);
  load_unix_diag();
  if (write_through_ && !disk_.first.can_fua && !read_only_ && !disk_.first.read_only)
    throw std::invalid_argument(disk_.server->text() +
                                ": write_through needs FUA, which the server does not have");
}

void Nbd::choose_blocks() {
  const uint32_t minimum = disk_.first.minimum_block;
  if (minimum > kMaxBlock)
    throw std::invalid_argument(disk_.server->text() + ": the export has blocks of " +
                                std::to_string(minimum) + " bytes, a device has at most " +
                                std::to_string(kMaxBlock));
  disk_.logical_block = std::max(std::bit_ceil(std::max(minimum, 1u)), kMinBlock);
  const uint64_t size = disk_.usable(disk_.size);
  if (size == 0)
    throw std::invalid_argument(disk_.server->text() + ": the export has " +
                                std::to_string(disk_.size) + " bytes, less than a block of " +
                                std::to_string(disk_.logical_block));
  if (size != disk_.size)
    disk_.log(UBLK_LOG_WARNING, "the last " + std::to_string(disk_.size - size) +
                                    " bytes are not part of the device: no whole block");
}

// A flush on one connection is known to be one for the others if the server says so.
void Nbd::choose_connections(const ublk::OpenArgs& args) {
  const bool several = disk_.first.multi_conn;
  if (args.is_set("connections")) {
    connections_ = static_cast<uint32_t>(args.number("connections"));
    if (connections_ > 1 && !several)
      throw std::invalid_argument(
          disk_.server->text() + ": connections = " + std::to_string(connections_) +
          ", but the server does not promise that they see each other's writes (multi-conn)");
  } else {
    connections_ = several ? nr_queues_ : 1;
  }
  // A server may still have the dead runner's, and take ours a little later.
  if (!recovering_) connect_others(args.is_set("connections"));
  // With one it does not matter what the server says of several, now or after a restart.
  if (connections_ == 1) disk_.first.multi_conn = false;
  max_queues_ = connections_;
  nr_queues_ = std::min(nr_queues_, max_queues_);
}

// What a queue's thread asks the kernel later must not wait there for a module to be loaded.
void Nbd::load_unix_diag() const {
  if (disk_.server->uri().transport != Uri::Transport::kUnix) return;
  try {
    static_cast<void>(has_open_peer(nbd_aio_get_fd(handles_.front().get())));
  } catch (const std::system_error&) {
    // There is none: Connection and fence() do without.
  }
}

// A server that takes fewer clients would leave some queues without any. Unless `all` must be had
// it is those that the device makes do with. All have one connect_timeout together, for the runner
// does not wait for ever.
void Nbd::connect_others(bool all) {
  const auto deadline = steady_clock::now() + disk_.connect_timeout;
  for (uint32_t have = 1; have < connections_; ++have) {
    try {
      const auto left = std::chrono::ceil<seconds>(deadline - steady_clock::now());
      handles_.push_back(disk_.server->connect(std::max(left, seconds(0))));
    } catch (const std::system_error& e) {
      if (all) throw;
      disk_.log(UBLK_LOG_WARNING,
                "connections: " + std::to_string(have) + ", no more can be had: " + e.what());
      connections_ = have;
    }
  }
}

void Nbd::geometry(ublk_geometry& geometry) {
  const Export& server = disk_.first;
  geometry.size = disk_.usable(disk_.size);
  geometry.logical_block_size = disk_.logical_block;
  if (std::has_single_bit(server.preferred_block)) {
    geometry.physical_block_size = std::clamp(server.preferred_block, disk_.logical_block,
                                              std::max(kMaxBlock, disk_.logical_block));
    geometry.io_min = geometry.physical_block_size;
    if (server.preferred_block > kMaxBlock) geometry.io_opt = server.preferred_block;
  }
  geometry.physical_block_size = std::max(geometry.physical_block_size, disk_.logical_block);
  geometry.io_min = std::max(geometry.io_min, geometry.physical_block_size);
  geometry.max_io_size = server.payload();
  geometry.discard_granularity = disk_.logical_block;
  geometry.max_discard_size = geometry.max_write_zeroes_size = kMaxRange;
  geometry.max_queues = max_queues_;
  const auto has = [&geometry](uint32_t flag, bool value) {
    if (value)
      geometry.flags |= flag;
    else
      geometry.flags &= ~flag;
  };
  const bool read_only = server.read_only || read_only_;
  has(UBLK_GEOMETRY_READ_ONLY, read_only);
  has(UBLK_GEOMETRY_ROTATIONAL, server.rotational);
  has(UBLK_GEOMETRY_FLUSH, server.can_flush && !write_through_);
  has(UBLK_GEOMETRY_FUA, server.can_flush && server.can_fua && !write_through_);
  has(UBLK_GEOMETRY_DISCARD, server.can_trim && !read_only);
  has(UBLK_GEOMETRY_WRITE_ZEROES, server.can_zero && !read_only);
}

// The end of a connection is no event that could be waited for by who has none of its ends.
void Nbd::fence(milliseconds timeout) {
  if (!recovering_ || read_only_) return;
  if (disk_.server->uri().transport != Uri::Transport::kUnix)
    return disk_.log(
        UBLK_LOG_WARNING,
        "NBD can't make sure that nothing of the last runner still reaches the server");
  const auto deadline = steady_clock::now() + timeout;
  while (is_at_work_for_others()) {
    if (steady_clock::now() >= deadline)
      throw std::system_error(EBUSY, std::generic_category(),
                              disk_.server->text() +
                                  ": the server has not closed the connection of a client that is "
                                  "gone");
    poll(nullptr, 0, kFenceInterval.count());
  }
}

// As far as that is to be seen.
bool Nbd::is_at_work_for_others() const {
  try {
    return has_orphans(nbd_aio_get_fd(handles_.front().get()));
  } catch (const std::runtime_error& e) {
    disk_.log(
        UBLK_LOG_WARNING,
        std::string("can't see whether the server has done with the last runner: ") + e.what());
    return false;
  }
}

// ---------------------------------------------------------------- requests --

// The queues share the connections as evenly as can be.
void* Nbd::open_queue(ublk::HandlerQueue queue) {
  const uint32_t index = queue.index();
  std::vector<Handle> share;
  for (uint32_t n = index; n < connections_ || share.empty(); n += nr_queues_)
    share.push_back(n < handles_.size() ? std::move(handles_[n]) : nullptr);
  return std::make_unique<Queue>(disk_, queue, std::move(share)).release();
}

int Nbd::close_queue(ublk::HandlerQueue, void* queue_data) {
  return Queue::close(std::unique_ptr<Queue>(static_cast<Queue*>(queue_data)));
}

int Nbd::submit(Io& io) const {
  ublk_request& request = io.request();
  if (write_through_ && request.op != UBLK_OP_READ && request.op != UBLK_OP_DISCARD)
    request.flags |= UBLK_REQUEST_FUA;
  return static_cast<Queue*>(disk_.host.queue_data(io.queue()))->submit(request);
}

void Nbd::cancel(ublk::HandlerQueue queue, ublk_request&) {
  static_cast<Queue*>(queue.data())->cancel();
}

}  // namespace
}  // namespace nbd

UBLK_HANDLER(nbd::Nbd)
