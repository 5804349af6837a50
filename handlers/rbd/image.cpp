// SPDX-License-Identifier: MIT
#include "image.h"

#include <strings.h>

#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <future>
#include <utility>
#include <vector>

#include "failure.h"

namespace rbd {

std::string ImageName::text() const {
  return pool + '/' + (pool_namespace.empty() ? "" : pool_namespace + '/') + image +
         (snapshot.empty() ? "" : '@' + snapshot);
}

Image::Image(std::shared_ptr<Cluster> cluster, const ImageName& name, bool read_only,
             std::chrono::seconds limit)
    : cluster_(std::move(cluster)), text_(name.text()) {
  try {
    open(name, read_only, limit);
  } catch (...) {
    if (image_ != nullptr) rbd_close(image_);
    if (pool_ != nullptr) rados_ioctx_destroy(pool_);
    throw;
  }
}

Image::~Image() {
  rbd_close(image_);
  rados_ioctx_destroy(pool_);
}

void Image::refuse(int error, const std::string& what) {
  if (error == -ENOENT) fail(error, text_ + ": there is no " + what);
  if (error == -EPERM || error == -EACCES)
    fail(error, text_ + ": " + cluster_->name() + " lacks the capability (profile rbd)");
  if (error == -ESHUTDOWN) {
    cluster_->retire();
    fail(error, text_ + ": the cluster has blocklisted this client, " + cluster_->address());
  }
  fail(error, text_ + ": can't open the " + what);
}

void Image::open(const ImageName& name, bool read_only, std::chrono::seconds limit) {
  if (const int error = rados_ioctx_create(cluster_->get(), name.pool.c_str(), &pool_); error < 0)
    refuse(error, "pool " + name.pool);
  // First of all: it is there that the object to look at is, and that a user may be confined to.
  rados_ioctx_set_namespace(pool_, name.pool_namespace.c_str());
  if (probe("rbd_id." + name.image, limit) == -ETIMEDOUT)
    fail(ETIMEDOUT, text_ + ": the OSDs of pool " + name.pool + " have not answered within " +
                        std::to_string(limit.count()) + " s");
  if (!name.pool_namespace.empty()) {
    bool exists = false;
    const int error = rbd_namespace_exists(pool_, name.pool_namespace.c_str(), &exists);
    // Users of one namespace alone may not ask.
    if (error == 0 && !exists) refuse(-ENOENT, "namespace " + name.pool_namespace);
  }
  const auto open_image = read_only ? rbd_open_read_only : rbd_open;
  if (const int error = open_image(pool_, name.image.c_str(), &image_, nullptr); error < 0) {
    image_ = nullptr;
    refuse(error, "image " + name.image);
  }
  if (name.snapshot.empty()) return;
  if (const int error = rbd_snap_set(image_, name.snapshot.c_str()); error < 0)
    refuse(error, "snapshot " + name.snapshot);
}

// The result of a look at an object. librbd itself waits for OSDs without an end.
int Image::probe(const std::string& object, std::chrono::seconds limit) {
  std::promise<void> promise;
  std::future<void> answered = promise.get_future();
  const auto callback = [](rados_completion_t, void* arg) {
    static_cast<std::promise<void>*>(arg)->set_value();
  };
  rados_completion_t completion;
  if (const int error = rados_aio_create_completion2(&promise, callback, &completion); error < 0)
    return error;
  uint64_t size = 0;
  time_t time = 0;
  int result = rados_aio_stat(pool_, object.c_str(), completion, &size, &time);
  if (result == 0) {
    const bool in_time = answered.wait_for(limit) == std::future_status::ready;
    if (!in_time) rados_aio_cancel(pool_, completion);
    answered.wait();
    result = in_time ? rados_aio_get_return_value(completion) : -ETIMEDOUT;
  }
  rados_aio_release(completion);
  return result;
}

uint64_t Image::size() const {
  uint64_t size = 0;
  if (const int error = rbd_get_size(image_, &size); error < 0) fail(error, text_ + ": size");
  return size;
}

uint64_t Image::object_size() const {
  rbd_image_info_t info{};
  const int error = rbd_stat(image_, &info, sizeof(info));
  if (error < 0) fail(error, text_ + ": size of objects");
  return info.obj_size;
}

uint64_t Image::stripe_unit() const {
  uint64_t bytes = 0;
  const int error = rbd_get_stripe_unit(image_, &bytes);
  if (error < 0) fail(error, text_ + ": stripe unit");
  return bytes;
}

bool Image::has_feature(uint64_t feature) const {
  uint64_t features = 0;
  const int error = rbd_get_features(image_, &features);
  if (error < 0) fail(error, text_ + ": features");
  return (features & feature) != 0;
}

std::string Image::id() const {
  char id[RBD_MAX_IMAGE_NAME_SIZE] = "";
  return rbd_get_id(image_, id, sizeof(id)) < 0 ? "" : id;
}

std::string Image::setting(const char* name) const {
  std::vector<rbd_config_option_t> all;
  int count = 256;
  int error;
  do {
    all.resize(static_cast<size_t>(count));
    error = rbd_config_image_list(image_, all.data(), &count);
  } while (error == -ERANGE);
  if (error < 0) fail(error, text_ + ": settings");
  std::string value;
  for (int i = 0; i < count; ++i)
    if (std::string(name) == all[i].name) value = all[i].value;
  rbd_config_image_list_cleanup(all.data(), count);
  return value;
}

// An image's own is a text as it was written; librbd takes these.
bool Image::is_on(const char* name) const {
  const std::string value = setting(name);
  return strcasecmp(value.c_str(), "true") == 0 || std::strtol(value.c_str(), nullptr, 10) != 0;
}

}  // namespace rbd
