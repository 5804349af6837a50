// SPDX-License-Identifier: MIT
// One device writes to an image: who is dead, or has lost the lock, does not.
#include <handler_instance.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "rbd_client.h"
#include "test_data.h"

namespace ceph_test {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;
using ublk_runner::HandlerInstance;
using ublk_runner::HandlerLibrary;

class RbdLockTest : public RbdTest {
 protected:
  const std::string& image_of(size_t device) {
    return config_.devices[device].options["image"].value;
  }
  std::string trouble() { return runner_->find("disk")->trouble(); }
  // Of who writes to the image: key and value; empty: nobody.
  static std::pair<std::string, std::string> record_of(const RbdImage& image) {
    char keys[256] = "";
    char values[256] = "";
    size_t keys_length = sizeof(keys);
    size_t values_length = sizeof(values);
    check(rbd_metadata_list(image.get(), "", 0, keys, &keys_length, values, &values_length));
    return {keys, values};
  }
  int write(uint64_t sector) {
    const std::vector<std::byte> data = test::pattern(4096);
    return driver().disk(runner_->find("disk")->info().dev_id)->write(sector, 8, data.data());
  }
};

TEST_F(RbdLockTest, AnImageHasOneWriter) {
  add_rbd("first");
  add_rbd("second", {{"image", image_of(0)}});
  add_rbd("third", {{"image", image_of(0)}, {"conf", other_conf()}});
  const fake::StartSummary summary = start();
  EXPECT_EQ(summary.started, 1u);
  ASSERT_EQ(summary.failed.size(), 2u);
  const RbdImage image(client_.pool(), image_of(0));
  std::set<std::string> causes;
  for (const auto& failed : summary.failed) causes.insert(failed.cause);
  const std::string text = "open: rbd/" + image_of(0) + ": the exclusive lock is held by ";
  // Which of the three is the first is chance.
  for (const std::string& cause : causes)
    EXPECT_EQ(cause, text + "another device of this runner: Device or resource busy");
}

TEST_F(RbdLockTest, AStrangerThatHasTheLockIsNamed) {
  add_rbd("disk");
  const RbdImage image(client_.pool(), image_of(0));
  check(rbd_lock_acquire(image.get(), RBD_LOCK_MODE_EXCLUSIVE));
  const fake::StartSummary summary = start();
  ASSERT_EQ(summary.failed.size(), 1u);
  EXPECT_EQ(summary.failed[0].cause, "open: rbd/" + image_of(0) +
                                         ": the exclusive lock is held by " + image.lock_owner() +
                                         ": Device or resource busy");
}

TEST_F(RbdLockTest, DevicesShareAClient) {
  add_rbd("disk");
  add_rbd("other");
  ASSERT_TRUE(start().failed.empty());
  EXPECT_EQ(RbdImage(client_.pool(), image_of(0)).lock_owner(),
            RbdImage(client_.pool(), image_of(1)).lock_owner());
}

TEST_F(RbdLockTest, WhoLosesTheLockFailsAndSaysSo) {
  add_rbd("disk");
  ASSERT_TRUE(start().failed.empty());
  ASSERT_EQ(write(0), 0);
  const std::string address = RbdImage(client_.pool(), image_of(0)).lock_owner();
  {
    const RbdImage thief(client_.pool(), image_of(0));
    thief.take_lock_by_force();
    EXPECT_EQ(write(0), -EIO);
    std::vector<std::byte> data(4096);
    EXPECT_EQ(driver().disk(0)->read(0, 8, data.data()), -EIO);
    EXPECT_EQ(data, std::vector<std::byte>(4096));
    ASSERT_TRUE(until([&] { return !trouble().empty(); }));
    EXPECT_EQ(trouble(), "the cluster has blocklisted this client, " + address +
                             ": all I/O fails until the device is restarted");
    EXPECT_NE(error_of_task(runner_->restart("disk")).find("the exclusive lock is held by "),
              std::string::npos);
  }
  // Then it is held until it can be opened, by itself.
  ASSERT_TRUE(until([&] { return trouble().empty(); }));
  EXPECT_EQ(write(0), 0);
}

// Nobody has noticed, since there was no I/O.
TEST_F(RbdLockTest, AClientThatIsRefusedIsNotUsedToOpenADeviceAnew) {
  add_rbd("disk");
  add_rbd("other");
  ASSERT_TRUE(start().failed.empty());
  client_.blocklist(RbdImage(client_.pool(), image_of(0)).lock_owner());
  EXPECT_EQ(error_of_task(runner_->restart("disk")), "");
  EXPECT_EQ(write(0), 0);
}

TEST_F(RbdLockTest, WhileAnotherClientKeepsTheLockWritesFailWithoutExclusive) {
  add_rbd("disk", {{"exclusive", "false"}});
  ASSERT_TRUE(start().failed.empty());
  {
    const RbdImage other(client_.pool(), image_of(0));
    check(rbd_lock_acquire(other.get(), RBD_LOCK_MODE_EXCLUSIVE));
    EXPECT_EQ(write(0), -EIO);
    EXPECT_EQ(trouble(), "");
  }
  EXPECT_EQ(write(0), 0);
}

TEST_F(RbdLockTest, NothingStaysOfADeviceThatIsClosed) {
  add_rbd("disk");
  ASSERT_TRUE(start().failed.empty());
  stop();
  const RbdImage image(client_.pool(), image_of(0));
  EXPECT_EQ(image.lock_owner(), "");
  EXPECT_EQ(record_of(image).first, "");
}

// One by mistake, say; should it be killed, its successor must know of it.
TEST_F(RbdLockTest, TheRecordOfAnotherRunnerThatHasComeStays) {
  add_rbd("disk", {{"exclusive", "false"}});
  ASSERT_TRUE(start().failed.empty());
  const RbdImage image(client_.pool(), image_of(0));
  const auto [key, own] = record_of(image);
  const std::string others = own.substr(0, own.rfind(' ')) + " 192.0.2.1:0/1";
  check(rbd_metadata_set(image.get(), key.c_str(), others.c_str()));
  stop();
  EXPECT_EQ(record_of(image), std::pair(key, others));
}

// ------------------------------------------------------------------- fence --

// Another process, which serves the image as a device of the same name, and writes to all of it
// until a write fails. Its end tells: the file "failed" has the last result.
class Predecessor {
 public:
  Predecessor(const std::string& image, const std::string& exclusive, const std::string& folder)
      : folder_(folder) {
    setenv("UBLK_TEST_IMAGE", image.c_str(), 1);
    setenv("UBLK_TEST_EXCLUSIVE", exclusive.c_str(), 1);
    setenv("UBLK_TEST_FOLDER", folder.c_str(), 1);
    std::string program = "/proc/self/exe";
    std::string filter = "--gtest_filter=RbdPredecessor.DISABLED_Serves";
    std::string disabled = "--gtest_also_run_disabled_tests";
    char* arguments[] = {program.data(), filter.data(), disabled.data(), nullptr};
    if (posix_spawn(&pid_, program.c_str(), nullptr, nullptr, arguments, environ) != 0) pid_ = -1;
  }
  ~Predecessor() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Predecessor(const Predecessor&) = delete;
  Predecessor& operator=(const Predecessor&) = delete;

  bool writes() const { return std::filesystem::exists(folder_ + "/writes"); }
  void stop() const {
    kill(pid_, SIGSTOP);
    waitpid(pid_, nullptr, WUNTRACED);
  }
  void go_on() const { kill(pid_, SIGCONT); }
  void end() {
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, 0), nullptr, 0);
  }
  // What the write that has failed gave. Waits for it.
  int result() {
    waitpid(std::exchange(pid_, 0), nullptr, 0);
    int result = 0;
    std::ifstream(folder_ + "/failed") >> result;
    return result;
  }

 private:
  const std::string folder_;
  pid_t pid_ = 0;
};

class RbdPredecessor : public RbdTest {};

TEST_F(RbdPredecessor, DISABLED_Serves) {
  const std::string folder = std::getenv("UBLK_TEST_FOLDER");
  add_rbd("disk", {{"image", std::getenv("UBLK_TEST_IMAGE")},
                   {"exclusive", std::getenv("UBLK_TEST_EXCLUSIVE")}});
  ASSERT_TRUE(start().failed.empty());
  const std::shared_ptr<fake::Disk> disk = driver().disk(0);
  constexpr unsigned kDepth = 16;
  std::vector<std::byte> data = test::pattern(4096);
  std::atomic<uint64_t> next{0};
  std::atomic<unsigned> ended{0};
  std::promise<int> failed;
  std::function<void(int)> again = [&](int result) {
    if (result != 0) {
      if (++ended == 1) failed.set_value(result);
      return;
    }
    if (++next == 500) std::ofstream(folder + "/writes") << 1;
    disk->submit({.op = ublk::Operation::kWrite,
                  .sector = next * 8 % (kSize / 512),
                  .sectors = 8,
                  .data = data.data()},
                 again);
  };
  for (unsigned i = 0; i < kDepth; ++i) again(0);
  const int result = failed.get_future().get();
  while (ended != kDepth) usleep(1000);
  std::ofstream(folder + "/failed") << result;
}

struct FenceCase {
  const char* name;
  const char* exclusive;
};
std::ostream& operator<<(std::ostream& out, const FenceCase& c) { return out << c.name; }

class RbdFenceTest : public RbdTest, public testing::WithParamInterface<FenceCase> {
 protected:
  void SetUp() override {
    RbdTest::SetUp();
    image_ = create_image("fenced");
    predecessor_ = std::make_unique<Predecessor>(image_, GetParam().exclusive, dir_);
    ASSERT_TRUE(until([&] { return predecessor_->writes(); }));
    const RbdImage image(client_.pool(), image_);
    address_ = image.lock_owner();
    ASSERT_NE(address_, "");
  }
  void TearDown() override {
    predecessor_.reset();
    RbdTest::TearDown();
  }

  // As the next runner does.
  std::unique_ptr<HandlerInstance> adopt() {
    const auto& device = add_rbd("disk", {{"image", image_}, {"exclusive", GetParam().exclusive}});
    auto instance = std::make_unique<HandlerInstance>(
        HandlerLibrary::load(UBLK_TEST_HANDLERS, "rbd"), device, true, pools_, [] {});
    instance->geometry();
    instance->fence(seconds(30));
    return instance;
  }

  std::string image_;
  std::string address_;
  std::unique_ptr<Predecessor> predecessor_;
  const std::shared_ptr<ublk_runner::SharedPools> pools_ =
      ublk_runner::SharedPools::make(ublk_runner::MainContext(), 1 << 20);
};

TEST_P(RbdFenceTest, AKilledRunnersClientIsBlocklistedAtOnce) {
  predecessor_->end();
  const auto began = steady_clock::now();
  const auto instance = adopt();
  EXPECT_LT(steady_clock::now() - began, seconds(15)) << "it waits for the dead client's watch";
  EXPECT_TRUE(client_.is_blocklisted(address_));
  const RbdImage image(client_.pool(), image_);
  EXPECT_NE(image.lock_owner(), address_);
}

// Writes that the old client has sent, and those that it still has, when the new one begins.
TEST_P(RbdFenceTest, WritesThatCameLateAreRefused) {
  predecessor_->stop();
  const auto instance = adopt();
  const RbdImage image(client_.pool(), image_);
  const std::vector<std::byte> before = image.read(0, kSize);
  predecessor_->go_on();
  EXPECT_EQ(predecessor_->result(), -EIO);
  EXPECT_EQ(image.read(0, kSize), before);
}

INSTANTIATE_TEST_SUITE_P(, RbdFenceTest,
                         testing::Values(FenceCase{"Exclusive", "true"},
                                         FenceCase{"Shared", "false"}),
                         [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace ceph_test
