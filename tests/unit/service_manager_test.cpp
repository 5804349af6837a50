// SPDX-License-Identifier: MIT
#include "service_manager.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <regex>
#include <string>

#include "test_data.h"

namespace ublk_runner {
namespace {

// What a service manager does: it has a socket, and says so in the environment.
class ServiceManagerTest : public testing::Test {
 protected:
  ServiceManagerTest() {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path_.c_str());
    EXPECT_EQ(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    setenv("NOTIFY_SOCKET", path_.c_str(), 1);
  }
  ~ServiceManagerTest() override {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) unsetenv(name);
  }

  // The next message; empty: none.
  std::string message() const {
    char text[512];
    const ssize_t size = recv(socket_.get(), text, sizeof(text), MSG_DONTWAIT);
    return size < 0 ? "" : std::string(text, static_cast<size_t>(size));
  }

  const std::unique_ptr<GMainContext, decltype(&g_main_context_unref)> loop_{g_main_context_new(),
                                                                             g_main_context_unref};
  const MainContext context_{loop_.get()};
  const test::TempDir dir_;
  const std::string path_ = dir_ / "notify";
  const ublk::UniqueFd socket_{socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
};

TEST_F(ServiceManagerTest, IsToldOfEachStep) {
  const ServiceManager manager(context_);
  EXPECT_EQ(message(), "");
  manager.ready("devices served: 3");
  EXPECT_EQ(message(), "READY=1\nSTATUS=devices served: 3");
  manager.reloading();
  EXPECT_TRUE(std::regex_match(
      message(), std::regex("RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]{5,}\nSTATUS=.+")));
  manager.stopping();
  EXPECT_EQ(message(), "STOPPING=1\nSTATUS=stopping");
}

TEST_F(ServiceManagerTest, TheLoopKeepsTheWatchdogQuiet) {
  setenv("WATCHDOG_USEC", "20000", 1);
  setenv("WATCHDOG_PID", std::to_string(getpid()).c_str(), 1);
  const ServiceManager manager(context_);
  EXPECT_EQ(message(), "WATCHDOG=1");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(message(), "");  // not without the loop
    while (g_main_context_iteration(context_.get(), TRUE) == FALSE) continue;
    EXPECT_EQ(message(), "WATCHDOG=1");
  }
}

TEST_F(ServiceManagerTest, TheWatchdogOfAnotherProcessIsNotOurs) {
  setenv("WATCHDOG_USEC", "20000", 1);
  setenv("WATCHDOG_PID", std::to_string(getpid() + 1).c_str(), 1);
  const ServiceManager manager(context_);
  EXPECT_EQ(message(), "");
}

TEST_F(ServiceManagerTest, ItsSocketMayBeAbstract) {
  const std::string name = path_ + "-abstract";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  name.copy(address.sun_path + 1, sizeof(address.sun_path) - 1);
  const ublk::UniqueFd abstract(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  ASSERT_EQ(bind(abstract.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  setenv("NOTIFY_SOCKET", ('@' + name).c_str(), 1);
  ServiceManager(context_).stopping();
  char text[64];
  EXPECT_EQ(recv(abstract.get(), text, sizeof(text), MSG_DONTWAIT), 26);
}

TEST_F(ServiceManagerTest, NobodyNeedListen) {
  unsetenv("NOTIFY_SOCKET");
  const ServiceManager manager(context_);
  manager.ready("devices served: 3");
  manager.stopping();
  EXPECT_EQ(message(), "");
}

}  // namespace
}  // namespace ublk_runner
