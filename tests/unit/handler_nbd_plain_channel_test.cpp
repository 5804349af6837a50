// SPDX-License-Identifier: MIT
//
// Commands leave by a socket that is always full, and their answers come: what is kept of them does
// not grow with the time. The test is the ring: it gives each SQE its result.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <deque>
#include <numeric>
#include <span>
#include <string>

#include "allocations.h"
#include "plain_channel.h"

struct ublk_queue {
  std::array<io_uring_sqe, 8> sqes;
  size_t taken = 0;
};

namespace {

using nbd::Command;
namespace wire = nbd::wire;

io_uring_sqe* get_sqe(ublk_queue* queue) {
  io_uring_sqe& sqe = queue->sqes.at(queue->taken++);
  sqe = {};
  return &sqe;
}

const ublk_host kHost = [] {
  ublk_host host{};
  host.get_sqe = get_sqe;
  return host;
}();

class NbdPlainChannel : public testing::Test, protected nbd::ChannelUser {
 protected:
  NbdPlainChannel() {
    request_.op = UBLK_OP_FLUSH;
    for (size_t i = 0; i < kCommands; ++i) commands_.emplace_back(request_);
    take_sqes();
  }

  void answered(Command&, int error) override { answers_ += error == 0; }
  void broken(const std::string& why) override { FAIL() << why; }
  void idle() override {}

  void take_sqes() {
    for (const io_uring_sqe& sqe : std::span(queue_.sqes).first(queue_.taken))
      (sqe.opcode == IORING_OP_SENDMSG ? send_ : receive_) = sqe;
    queue_.taken = 0;
  }
  static void end(const io_uring_sqe& sqe, int result) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): user_data is a number
    auto* event = reinterpret_cast<ublk_event*>(sqe.user_data & ~UBLK_EVENT_USER_DATA_MARK);
    event->handle(event, result, 0);
  }
  // All that waits, but for one byte.
  void send_all_but_one() {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): addr is a number
    const auto& message = *reinterpret_cast<const msghdr*>(send_.addr);
    const std::span parts(message.msg_iov, message.msg_iovlen);
    const size_t bytes =
        std::accumulate(parts.begin(), parts.end(), size_t{0},
                        [](size_t sum, const iovec& part) { return sum + part.iov_len; });
    end(send_, static_cast<int>(bytes - 1));
    take_sqes();
  }
  void answer(const Command& command) {
    const wire::SimpleReply reply{htobe32(wire::kSimpleReplyMagic), 0, command.header.cookie};
    // NOLINTNEXTLINE(performance-no-int-to-ptr): addr is a number
    std::memcpy(reinterpret_cast<void*>(receive_.addr), &reply, sizeof(reply));
    end(receive_, sizeof(reply));
    take_sqes();
  }

  static constexpr size_t kCommands = 4;
  ublk_queue queue_;
  io_uring_sqe send_{};
  io_uring_sqe receive_{};
  ublk_request request_{};
  std::deque<Command> commands_;
  size_t answers_ = 0;
  nbd::PlainChannel channel_{*this, ublk::HandlerQueue(kHost, &queue_), -1};
};

TEST_F(NbdPlainChannel, KeepsNothingOfWhatHasBeenSentThoughSomethingIsAlwaysLeft) {
  size_t issued = 0;
  const auto run = [&](size_t rounds) {
    for (size_t i = 0; i < rounds; ++i, ++issued) {
      if (issued >= kCommands) answer(commands_[issued % kCommands]);
      channel_.issue(commands_[issued % kCommands]);
      take_sqes();
      send_all_but_one();
    }
  };
  run(10'000);
  const uint64_t allocations = test::allocations;
  run(1'000'000);
  EXPECT_EQ(test::allocations - allocations, 0);
  EXPECT_EQ(answers_, issued - kCommands);
}

}  // namespace
