// SPDX-License-Identifier: MIT
#include "rbd_client.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <system_error>

namespace ceph_test {

std::string conf() {
  const char* path = std::getenv("UBLK_TEST_CEPH_CONF");
  if (path == nullptr) throw std::runtime_error("to be run by tests/ceph/run");
  return path;
}

void check(int result) {
  if (result < 0) throw std::system_error(-result, std::generic_category());
}

RbdImage::RbdImage(rados_ioctx_t pool, const std::string& name) {
  check(rbd_open(pool, name.c_str(), &image_, nullptr));
}

RbdImage::~RbdImage() { rbd_close(image_); }

std::string RbdImage::lock_owner() const {
  rbd_lock_mode_t mode;
  char* owners[1] = {nullptr};
  size_t count = 1;
  const int error = rbd_lock_get_owners(image_, &mode, owners, &count);
  if (error == -ENOENT) return "";
  check(error);
  std::string owner = owners[0];
  rbd_lock_get_owners_cleanup(owners, count);
  return owner;
}

std::vector<std::byte> RbdImage::read(uint64_t offset, size_t length) const {
  std::vector<std::byte> data(length);
  const ssize_t n = rbd_read(image_, offset, length, reinterpret_cast<char*>(data.data()));
  check(n == static_cast<ssize_t>(length) ? 0 : -EIO);
  return data;
}

void RbdImage::take_lock_by_force() const {
  check(rbd_lock_break(image_, RBD_LOCK_MODE_EXCLUSIVE, lock_owner().c_str()));
  check(rbd_lock_acquire(image_, RBD_LOCK_MODE_EXCLUSIVE));
}

RbdClient::RbdClient() {
  check(rados_create(&rados_, "admin"));
  check(rados_conf_read_file(rados_, conf().c_str()));
  check(rados_connect(rados_));
  check(rados_ioctx_create(rados_, "rbd", &pool_));
}

RbdClient::~RbdClient() {
  rados_ioctx_destroy(pool_);
  rados_shutdown(rados_);
}

void RbdClient::create(const std::string& image, uint64_t size) const {
  rbd_image_options_t options;
  rbd_image_options_create(&options);
  const int error = rbd_create4(pool_, image.c_str(), size, options);
  rbd_image_options_destroy(options);
  check(error);
}

bool RbdClient::is_blocklisted(const std::string& address) const {
  const char* command = R"({"prefix": "osd blocklist ls"})";
  char* out = nullptr;
  char* status = nullptr;
  size_t out_length = 0;
  size_t status_length = 0;
  check(rados_mon_command(rados_, &command, 1, nullptr, 0, &out, &out_length, &status,
                          &status_length));
  const bool found = std::string(out, out_length).find(address + ' ') != std::string::npos;
  rados_buffer_free(out);
  rados_buffer_free(status);
  return found;
}

void RbdClient::blocklist(std::string address) const {
  check(rados_blocklist_add(rados_, address.data(), 0));
  check(rados_wait_for_latest_osdmap(rados_));
}

std::string RbdTest::create_image(const std::string& name) {
  std::string image = name + '-' + testing::UnitTest::GetInstance()->current_test_info()->name();
  std::replace(image.begin(), image.end(), '/', '-');
  client_.create(image, kSize);
  return image;
}

ublk_runner::DeviceConfig& RbdTest::add_rbd(const std::string& name, const fake::Options& options) {
  fake::Options all = {{"pool", "rbd"}, {"conf", conf()}, {"connect_timeout", "30"}};
  bool has_image = false;
  for (const auto& option : options) {
    std::erase_if(all, [&](const auto& other) { return other.first == option.first; });
    all.push_back(option);
    has_image |= option.first == "image";
  }
  if (!has_image) all.emplace_back("image", create_image(name));
  return add(name, "rbd", all);
}

std::string RbdTest::why_not(const fake::Options& options) {
  config_.devices.clear();
  add_rbd("disk", options);
  const fake::StartSummary summary = start();
  stop();
  return summary.failed.empty() ? "" : summary.failed.front().cause;
}

std::string RbdTest::other_conf() {
  const std::string path = dir_ + "/other.conf";
  std::filesystem::copy_file(conf(), path);
  return path;
}

}  // namespace ceph_test
