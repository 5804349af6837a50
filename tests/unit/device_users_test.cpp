// SPDX-License-Identifier: MIT
//
// Who uses a device is told even while a file system waits for a server that is gone.
#include "device_users.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <future>
#include <string>
#include <vector>

#include "node_number.h"
#include "test_data.h"

namespace ublk_runner {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

// A FUSE file system that is mounted and then answers nothing; all that waits for it fails once it
// has ended.
class HungMount {
 public:
  HungMount() : device_(open("/dev/fuse", O_RDWR | O_CLOEXEC)) {
    if (!device_) return;
    const std::string options =
        "fd=" + std::to_string(device_.get()) + ",rootmode=40000,user_id=0,group_id=0";
    mounted_ = mount("hung", dir_.path().c_str(), "fuse", 0, options.c_str()) == 0;
    if (mounted_) {
      answer_init();
      // Reaching the root itself asks the server nothing.
      root_ = ublk::UniqueFd(open(dir_.path().c_str(), O_PATH | O_CLOEXEC));
    }
  }
  ~HungMount() {
    device_.reset();
    root_.reset();
    if (mounted_) umount2(dir_.path().c_str(), MNT_DETACH);
  }
  HungMount(const HungMount&) = delete;
  HungMount& operator=(const HungMount&) = delete;

  bool mounted() const { return mounted_; }
  int root() const { return root_.get(); }
  void end() { device_.reset(); }
  // Somebody waits for an answer.
  bool is_asked() const {
    pollfd asked = {device_.get(), POLLIN, 0};
    return poll(&asked, 1, 0) == 1;
  }

 private:
  void answer_init() const {
    alignas(fuse_in_header) std::array<char, FUSE_MIN_READ_BUFFER> request{};
    ASSERT_GT(read(device_.get(), request.data(), request.size()), 0);
    const auto* header = reinterpret_cast<const fuse_in_header*>(request.data());
    ASSERT_EQ(header->opcode, static_cast<uint32_t>(FUSE_INIT));
    struct {
      fuse_out_header header;
      fuse_init_out init;
    } reply{};
    reply.header = {sizeof(reply), 0, header->unique};
    reply.init.major = FUSE_KERNEL_VERSION;
    reply.init.minor = FUSE_KERNEL_MINOR_VERSION;
    reply.init.max_write = 4096;
    ASSERT_EQ(write(device_.get(), &reply, sizeof(reply)), static_cast<ssize_t>(sizeof(reply)));
  }

  const test::TempDir dir_;
  ublk::UniqueFd device_;
  ublk::UniqueFd root_;
  bool mounted_ = false;
};

std::string any_disk() {
  std::error_code error;
  const fs::directory_iterator disks("/sys/block", error);
  return error || disks == end(disks) ? "" : disks->path().filename().string();
}

TEST(DeviceUsers, AFileWhoseServerIsGoneHoldsUpNobody) {
  const std::string disk = any_disk();
  if (disk.empty()) GTEST_SKIP() << "needs a disk in /sys/block";
  HungMount hung;
  if (!hung.mounted()) GTEST_SKIP() << "needs /dev/fuse, and root, to mount";
  ASSERT_GE(hung.root(), 0);
  auto users = std::async(std::launch::async, [&] { return device_users("/dev/" + disk); });
  EXPECT_EQ(users.wait_for(10s), std::future_status::ready);
  EXPECT_FALSE(hung.is_asked());
  hung.end();
}

TEST(NodeNumber, IsThatOfANodeOfTheTypeAlone) {
  EXPECT_EQ(node_number("/dev/null", S_IFCHR), "1:3");
  EXPECT_EQ(node_number("/dev/null", S_IFBLK), std::nullopt);
  EXPECT_EQ(node_number("/dev", S_IFCHR), std::nullopt);
  EXPECT_EQ(node_number("/dev/no-such-node", S_IFCHR), std::nullopt);
  const ublk::UniqueFd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(node_number("/proc/self/fd/" + std::to_string(fd.get()), S_IFCHR), "1:3");
}

}  // namespace
}  // namespace ublk_runner
