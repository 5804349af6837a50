// SPDX-License-Identifier: MIT
//
// Nothing is sent to a server on a unix socket before it has done with clients that are gone, or
// with a connection that is lost.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "handler_host.h"
#include "nbd_server.h"
#include "test_data.h"
#include "unix_orphans.h"

namespace {

using std::chrono::milliseconds;
using test::Device;
using test::HandlerError;
using test::NbdServer;

bool has_unix_diag() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return false;
  const ublk::UniqueFd one(ends[0]);
  const ublk::UniqueFd other(ends[1]);
  try {
    return nbd::has_open_peer(one.get());
  } catch (const std::system_error&) {
    return false;
  }
}

class NbdFence : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_unix_diag()) GTEST_SKIP() << "no unix_diag in this kernel";
  }

  test::TempDir dir_;
};

// Opens the device in a process that ends without closing it.
void open_and_die(const test::Options& options) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const Device dead("nbd", options);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
}

// The server has bound the name in its own folder, the runner comes by another path.
TEST_F(NbdFence, KnowsTheServersSocketByAnyPath) {
  std::filesystem::create_directory_symlink(dir_.path(), dir_ / "link");
  const std::string path = dir_ / "socket";
  std::atomic<bool> at_last_request = false;
  std::atomic<bool> may_close = false;
  const NbdServer server(path, [&](int socket, unsigned) {
    while (const auto request = NbdServer::receive(socket)) NbdServer::answer(socket, *request);
    if (at_last_request.exchange(true)) return;
    at_last_request.notify_all();
    may_close.wait(false);
  });
  const test::Options options = {{"uri", "nbd+unix:///?socket=" + (dir_ / "link/socket")}};
  open_and_die(options);
  at_last_request.wait(false);
  const auto open = [&](int timeout) {
    const Device disk("nbd", options, UBLK_OPEN_RECOVERING, 1, milliseconds(timeout));
  };
  EXPECT_THROW(open(100), HandlerError);
  may_close = true;
  may_close.notify_all();
  open(20'000);
}

// As qemu does when it finds the end of a connection, but with a request still under way.
TEST_F(NbdFence, AServerThatHasShutDownItsEndIsAwaitedBeforeRequestsAreSentAgain) {
  std::mutex mutex;
  std::vector<unsigned> order;  // of the connections whose request is done
  const std::string path = dir_ / "socket";
  const NbdServer server(path, [&](int socket, unsigned connection) {
    const auto request = NbdServer::receive(socket);
    if (!request) return;
    if (connection == 0) {
      shutdown(socket, SHUT_RDWR);
      std::this_thread::sleep_for(milliseconds(300));
    }
    const std::lock_guard lock(mutex);
    order.push_back(connection);
    if (connection != 0) NbdServer::answer(socket, *request);
  });
  Device disk("nbd", {{"uri", "nbd+unix:///?socket=" + path}});
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 0, 4096), 4096);
  const std::lock_guard lock(mutex);
  EXPECT_EQ(order, (std::vector<unsigned>{0, 1}));
}

TEST_F(NbdFence, AServerThatIsNotSeenIsNoServerWithoutOrphans) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const ublk::UniqueFd one(ends[0]);
  const ublk::UniqueFd other(ends[1]);
  EXPECT_THROW(nbd::has_orphans(one.get()), std::runtime_error);
}

TEST_F(NbdFence, APeerIsOpenUntilItIsClosed) {
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  const ublk::UniqueFd client(ends[0]);
  {
    const ublk::UniqueFd server(ends[1]);
    shutdown(server.get(), SHUT_RDWR);
    shutdown(client.get(), SHUT_RDWR);
    EXPECT_TRUE(nbd::has_open_peer(client.get()));
  }
  EXPECT_FALSE(nbd::has_open_peer(client.get()));
}

}  // namespace
