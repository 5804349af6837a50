// SPDX-License-Identifier: MIT
// Another client of the cluster of tests/ceph/run, and a runner whose devices are images of it.
#ifndef UBLK_TESTS_CEPH_RBD_CLIENT_H
#define UBLK_TESTS_CEPH_RBD_CLIENT_H

#include <rados/librados.h>
#include <rbd/librbd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runner_fixture.h"

namespace ceph_test {

std::string conf();  // the path of the cluster's configuration

// Throws std::system_error if librbd's result is an error.
void check(int result);

// An open image. Throws std::system_error.
class RbdImage {
 public:
  RbdImage(rados_ioctx_t pool, const std::string& name);
  ~RbdImage();
  RbdImage(const RbdImage&) = delete;
  RbdImage& operator=(const RbdImage&) = delete;

  rbd_image_t get() const { return image_; }
  std::string lock_owner() const;
  std::vector<std::byte> read(uint64_t offset, size_t length) const;
  void take_lock_by_force() const;

 private:
  rbd_image_t image_ = nullptr;
};

// Connected, with its own address, to the pool rbd.
class RbdClient {
 public:
  RbdClient();
  ~RbdClient();
  RbdClient(const RbdClient&) = delete;
  RbdClient& operator=(const RbdClient&) = delete;

  rados_ioctx_t pool() const { return pool_; }
  // With the features that images have by default.
  void create(const std::string& image, uint64_t size) const;
  bool is_blocklisted(const std::string& address) const;
  void blocklist(std::string address) const;

 private:
  rados_t rados_ = nullptr;
  rados_ioctx_t pool_ = nullptr;
};

class RbdTest : public fake::RunnerTest {
 protected:
  static constexpr uint64_t kSize = 32 << 20;

  // Makes one for this test alone, "NAME-TEST".
  std::string create_image(const std::string& name);
  // A device whose image is made if `options` do not name one.
  ublk_runner::DeviceConfig& add_rbd(const std::string& name, const fake::Options& options = {});
  // Adds it and starts; gives why that failed; empty: it did not.
  std::string why_not(const fake::Options& options);
  // The same cluster for a client of its own, since the file is another one.
  std::string other_conf();
  // Lets the runner work until `holds()`. False: not within a minute.
  template <class Condition>
  bool until(Condition holds);

  RbdClient client_;
};

template <class Condition>
bool RbdTest::until(Condition holds) {
  const ublk_runner::MainContext context;
  bool late = false;
  const auto limit = context.after(fake::kHung, [&late] { late = true; });
  std::vector<ublk_runner::Source> looks;
  while (!holds() && !late) {
    looks.push_back(context.after(std::chrono::milliseconds(5), [] {}));
    g_main_context_iteration(nullptr, TRUE);
  }
  return !late;
}

}  // namespace ceph_test

#endif  // UBLK_TESTS_CEPH_RBD_CLIENT_H
