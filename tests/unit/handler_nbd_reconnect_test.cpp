// SPDX-License-Identifier: MIT
//
// How long the nbd handler waits for a server that is lost, slow or of no use.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "handler_host.h"
#include "nbd_server.h"
#include "test_data.h"

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using test::Device;
using test::NbdServer;
using test::Options;

class NbdReconnect : public testing::Test {
 protected:
  Options options(const std::string& reconnect_timeout) const {
    return {{"uri", "nbd+unix:///?socket=" + path_}, {"reconnect_timeout", reconnect_timeout}};
  }

  static void serve(int socket) {
    while (const auto request = NbdServer::receive(socket)) NbdServer::answer(socket, *request);
  }

  test::TempDir dir_;
  const std::string path_ = dir_ / "socket";
};

class NbdReconnectConnections : public NbdReconnect,
                                public testing::WithParamInterface<const char*> {};

INSTANTIATE_TEST_SUITE_P(Connections, NbdReconnectConnections, testing::Values("1", "2"));

// The server becomes a good one after a while, so that who waits too long is told by a success.
TEST_P(NbdReconnectConnections, IoIsBoundedThoughTheServerTakesEachConnection) {
  const auto began = steady_clock::now();
  const NbdServer server(path_, [began](int socket, unsigned) {
    if (steady_clock::now() - began > seconds(7)) return serve(socket);
    static_cast<void>(NbdServer::receive(socket));
  });
  Options with = options("3");
  with["connections"] = GetParam();
  Device disk("nbd", with);
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, 0, 4096), -ETIMEDOUT);
  EXPECT_GE(steady_clock::now() - began, seconds(3));
}

// One request is never answered, so that the queue never has none.
TEST_F(NbdReconnect, EachAnswerGivesTheServerItsTimeAgain) {
  std::atomic<bool> is_good = false;
  const NbdServer server(path_, [&](int socket, unsigned) {
    while (const auto request = NbdServer::receive(socket)) {
      const bool is_first = request->offset == 0;
      if (is_first || is_good) NbdServer::answer(socket, *request);
      if (is_first && !is_good) return;
    }
  });
  Device disk("nbd", options("4"));
  disk.queue().start(1, UBLK_OP_READ, 4096, 4096);
  const auto began = steady_clock::now();
  while (steady_clock::now() - began < milliseconds(4300))
    ASSERT_EQ(disk.queue().run(UBLK_OP_READ, 0, 4096), 4096);
  is_good = true;
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, 0, 4096), 4096);
  EXPECT_EQ(disk.queue().finish(1), 4096);
}

TEST_F(NbdReconnect, WithoutReconnectTimeoutTheFirstConnectionsAreWaitedForAllTheSame) {
  const NbdServer server(path_, [](int socket, unsigned) { serve(socket); });
  Device disk("nbd", options("0"), UBLK_OPEN_RECOVERING, 4);
  for (uint32_t queue = 0; queue < 4; ++queue)
    EXPECT_EQ(disk.queue(queue).run(UBLK_OP_READ, 0, 4096), 4096) << queue;
}

TEST_F(NbdReconnect, AServerOfFewerClientsHasFewerQueues) {
  const NbdServer server(path_, [](int socket, unsigned) { serve(socket); }, {.clients = 2});
  Options with = options("1");
  with["connect_timeout"] = "3";
  Device disk("nbd", with, 0, 4);
  EXPECT_EQ(disk.geometry().max_queues, 2u);
  for (uint32_t queue = 0; queue < 2; ++queue)
    EXPECT_EQ(disk.queue(queue).run(UBLK_OP_READ, 0, 4096), 4096) << queue;
}

TEST_F(NbdReconnect, AllConnectionsThatAreAskedForMustBeHad) {
  const NbdServer server(path_, [](int socket, unsigned) { serve(socket); }, {.clients = 2});
  Options with = options("1");
  with["connect_timeout"] = "3";
  with["connections"] = "3";
  EXPECT_THROW(Device("nbd", with), test::HandlerError);
}

// The server ends the first connection, and takes only one at a time from then on.
TEST_F(NbdReconnect, ADeviceWithOneConnectionNeedsNoServerOfSeveral) {
  const NbdServer server(path_,
                         [](int socket, unsigned connection) {
                           if (connection != 0) serve(socket);
                         },
                         {.several = 1});
  Options with = options("5");
  with["connections"] = "1";
  Device disk("nbd", with);
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, 0, 4096), 4096);
}

TEST_F(NbdReconnect, TheDeviceIsInTroubleWhileTheServerIsAway) {
  std::optional<NbdServer> server;
  const auto start = [&] { server.emplace(path_, [](int socket, unsigned) { serve(socket); }); };
  start();
  Device disk("nbd", options("1"), 0, 2);
  for (uint32_t queue = 0; queue < 2; ++queue)
    EXPECT_EQ(disk.queue(queue).run(UBLK_OP_READ, 0, 4096), 4096);
  EXPECT_EQ(disk.trouble, "");
  server.reset();
  std::filesystem::remove(path_);
  for (uint32_t queue = 0; queue < 2; ++queue)
    EXPECT_EQ(disk.queue(queue).run(UBLK_OP_READ, 0, 4096), -ETIMEDOUT);
  EXPECT_TRUE(disk.trouble.starts_with("no connection to nbd+unix:///?socket=")) << disk.trouble;
  EXPECT_NE(disk.trouble.find(", I/O fails: "), std::string::npos) << disk.trouble;
  start();
  for (uint32_t queue = 0; queue < 2; ++queue) {
    EXPECT_NE(disk.trouble, "");
    while (disk.queue(queue).run(UBLK_OP_READ, 0, 4096) != 4096) disk.queue(queue).turn();
  }
  EXPECT_EQ(disk.trouble, "");
}

// As a device that was larger once: it is refused, and the next one served.
TEST_F(NbdReconnect, WhatIsBeyondTheExportIsTheServersToRefuse) {
  std::atomic<unsigned> connections = 0;
  const NbdServer server(path_, [&](int socket, unsigned) {
    ++connections;
    while (const auto request = NbdServer::receive(socket))
      NbdServer::answer(socket, *request, be64toh(request->offset) < NbdServer::kSize ? 0 : EINVAL);
  });
  Device disk("nbd", options("3"));
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, NbdServer::kSize, 4096), -EINVAL);
  EXPECT_EQ(disk.queue().run(UBLK_OP_READ, 0, 4096), 4096);
  EXPECT_EQ(connections, 1u);
}

// A device has found out by a connection that was made anew; the other one still has the old end.
// They are of one queue, or each of its own, which has no other one meanwhile.
class NbdGrowth : public NbdReconnect, public testing::WithParamInterface<uint32_t> {};

INSTANTIATE_TEST_SUITE_P(Queues, NbdGrowth, testing::Values(1, 2));

TEST_P(NbdGrowth, WhatTheExportHasGrownByTakesNoOldConnection) {
  std::atomic<unsigned> beyond = 0;  // requests that had to be refused
  const auto one = [&](int socket, unsigned connection) {
    const auto request = NbdServer::receive(socket);
    if (!request || connection == 0) return false;
    const uint64_t end = be64toh(request->offset) + be32toh(request->length);
    const bool fits = end <= (connection < 2 ? 1 : 2) * NbdServer::kSize;
    beyond += fits ? 0 : 1;
    NbdServer::answer(socket, *request, fits ? 0 : EINVAL);
    return true;
  };
  const NbdServer server(path_,
                         [one](int socket, unsigned connection) {
                           while (one(socket, connection)) {
                           }
                         },
                         {.grows = 2});
  Options with = options("0");
  with["connections"] = "2";
  Device disk("nbd", with, 0, GetParam());
  while (disk.size != 2 * NbdServer::kSize)
    if (disk.queue().run(UBLK_OP_READ, 0, 4096) < 0) disk.queue().turn();
  test::Queue& queue = disk.queue(GetParam() - 1);
  for (uint16_t tag = 0; tag < 4; ++tag) queue.start(tag, UBLK_OP_READ, NbdServer::kSize, 4096);
  for (uint16_t tag = 0; tag < 4; ++tag) EXPECT_EQ(queue.finish(tag), 4096) << tag;
  EXPECT_EQ(beyond, 0u);
}

}  // namespace
