// SPDX-License-Identifier: MIT
//
// An open image, or a snapshot of one.
#ifndef UBLK_HANDLERS_RBD_IMAGE_H
#define UBLK_HANDLERS_RBD_IMAGE_H

#include <rbd/librbd.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "cluster.h"

namespace rbd {

struct ImageName {
  std::string pool;
  std::string pool_namespace;  // "": the pool's own
  std::string image;
  std::string snapshot;  // "": the image itself

  std::string text() const;  // "pool/namespace/image@snapshot"
};

class Image {
 public:
  // Blocks; for the first answer of the OSDs no longer than `limit`. Throws std::system_error with
  // a text for the user; with ESHUTDOWN the cluster has blocklisted this client, and shared() gives
  // another one.
  Image(std::shared_ptr<Cluster> cluster, const ImageName& name, bool read_only,
        std::chrono::seconds limit);
  ~Image();
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  rbd_image_t get() const { return image_; }
  Cluster& cluster() const { return *cluster_; }
  const std::string& text() const { return text_; }

  uint64_t size() const;
  uint64_t object_size() const;
  uint64_t stripe_unit() const;  // that of the object's size without fancy striping
  bool has_feature(uint64_t feature) const;
  std::string id() const;
  // A setting of Ceph as it holds for this image, which may have its own, or its pool; "": there is
  // none. Throws std::system_error.
  std::string setting(const char* name) const;
  bool is_on(const char* setting) const;

 private:
  void open(const ImageName& name, bool read_only, std::chrono::seconds limit);
  [[noreturn]] void refuse(int error, const std::string& what);
  int probe(const std::string& object, std::chrono::seconds limit);

  const std::shared_ptr<Cluster> cluster_;
  const std::string text_;
  rados_ioctx_t pool_ = nullptr;
  rbd_image_t image_ = nullptr;
};

}  // namespace rbd

#endif  // UBLK_HANDLERS_RBD_IMAGE_H
