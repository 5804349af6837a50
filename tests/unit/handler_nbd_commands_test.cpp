// SPDX-License-Identifier: MIT
//
// What the nbd handler asks the server for, and what it makes of a refusal.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <string>
#include <vector>

#include "handler_host.h"
#include "nbd_server.h"
#include "test_data.h"

namespace {

using test::Device;
using test::NbdServer;
using test::Options;
namespace wire = nbd::wire;

struct Asked {
  uint16_t type;
  uint16_t flags;
  bool operator==(const Asked&) const = default;
};

void PrintTo(const Asked& asked, std::ostream* out) {
  *out << "type " << asked.type << " flags " << asked.flags;
}

class NbdCommands : public testing::Test {
 protected:
  // What a request makes the handler ask for.
  Asked of(const Options& more, ublk_op op, uint32_t flags) {
    Options options = {{"uri", "nbd+unix:///?socket=" + path_}};
    options.insert(more.begin(), more.end());
    Device disk("nbd", options);
    const int expected = op == UBLK_OP_WRITE || op == UBLK_OP_READ ? 4096 : 0;
    EXPECT_EQ(disk.queue().run(op, 4096, op == UBLK_OP_FLUSH ? 0 : 4096, flags), expected);
    const std::lock_guard lock(mutex_);
    return asked_.back();
  }

  std::mutex mutex_;
  std::vector<Asked> asked_;
  test::TempDir dir_;
  const std::string path_ = dir_ / "socket";
  const NbdServer server_{path_, [this](int socket, unsigned) {
                            while (const auto request = NbdServer::receive(socket)) {
                              const std::lock_guard lock(mutex_);
                              asked_.push_back({be16toh(request->type), be16toh(request->flags)});
                              NbdServer::answer(socket, *request);
                            }
                          }};
};

TEST_F(NbdCommands, FuaAndNoHoleArePassedOn) {
  EXPECT_EQ(of({}, UBLK_OP_READ, 0), (Asked{wire::kRead, 0}));
  EXPECT_EQ(of({}, UBLK_OP_WRITE, 0), (Asked{wire::kWrite, 0}));
  EXPECT_EQ(of({}, UBLK_OP_WRITE, UBLK_REQUEST_FUA), (Asked{wire::kWrite, wire::kFua}));
  EXPECT_EQ(of({}, UBLK_OP_FLUSH, 0), (Asked{wire::kFlush, 0}));
  EXPECT_EQ(of({}, UBLK_OP_DISCARD, 0), (Asked{wire::kTrim, 0}));
  EXPECT_EQ(of({}, UBLK_OP_WRITE_ZEROES, 0), (Asked{wire::kWriteZeroes, 0}));
  EXPECT_EQ(of({}, UBLK_OP_WRITE_ZEROES, UBLK_REQUEST_NO_UNMAP | UBLK_REQUEST_FUA),
            (Asked{wire::kWriteZeroes, wire::kNoHole | wire::kFua}));
}

TEST_F(NbdCommands, WriteThroughMakesEachWriteDurable) {
  const Options with = {{"write_through", "true"}};
  EXPECT_EQ(of(with, UBLK_OP_WRITE, 0), (Asked{wire::kWrite, wire::kFua}));
  EXPECT_EQ(of(with, UBLK_OP_WRITE_ZEROES, 0), (Asked{wire::kWriteZeroes, wire::kFua}));
  EXPECT_EQ(of(with, UBLK_OP_READ, 0), (Asked{wire::kRead, 0}));
}

// A server that shuts down has not done what it refuses; the next one does it.
TEST(NbdShutdown, WhatIsRefusedIsDoneByTheNextConnection) {
  const test::TempDir dir;
  const std::string path = dir / "socket";
  std::atomic<unsigned> done = 0;
  const NbdServer server(path, [&](int socket, unsigned connection) {
    while (const auto request = NbdServer::receive(socket)) {
      done += connection == 0 ? 0 : 1;
      NbdServer::answer(socket, *request, connection == 0 ? ESHUTDOWN : 0);
    }
  });
  Device disk("nbd", {{"uri", "nbd+unix:///?socket=" + path}});
  for (uint16_t tag = 0; tag < 4; ++tag) disk.queue().start(tag, UBLK_OP_WRITE, tag * 4096u, 4096);
  for (uint16_t tag = 0; tag < 4; ++tag) EXPECT_EQ(disk.queue().finish(tag), 4096) << tag;
  EXPECT_EQ(done, 4u);
}

// All is answered, so that nothing is to be waited for. The old server keeps its socket.
TEST(NbdShutdown, AServerThatIsLeftWithNothingToDoNeedNotEndTheConnection) {
  const test::TempDir dir;
  const std::string path = dir / "socket";
  std::atomic<bool> over = false;
  const NbdServer server(path, [&](int socket, unsigned connection) {
    while (const auto request = NbdServer::receive(socket))
      NbdServer::answer(socket, *request, connection == 0 ? ESHUTDOWN : 0);
    if (connection == 0) over.wait(false);
  });
  Device disk("nbd", {{"uri", "nbd+unix:///?socket=" + path}, {"reconnect_timeout", "5"}});
  EXPECT_EQ(disk.queue().run(UBLK_OP_WRITE, 0, 4096), 4096);
  over = true;
  over.notify_all();
}

}  // namespace
