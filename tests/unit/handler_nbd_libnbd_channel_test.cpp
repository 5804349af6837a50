// SPDX-License-Identifier: MIT
//
// What goes through libnbd, as all does with TLS; the channel does not see whether there is any.
// The test is the ring: it waits for what the channel polls.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "libnbd_channel.h"
#include "nbd_server.h"
#include "server.h"
#include "test_data.h"

struct ublk_queue {
  std::deque<io_uring_sqe> sqes;  // whose events have not come
};

namespace {

using nbd::Command;
using test::NbdServer;
namespace wire = nbd::wire;

io_uring_sqe* get_sqe(ublk_queue* queue) { return &queue->sqes.emplace_back(io_uring_sqe{}); }

const ublk_host kHost = [] {
  ublk_host host{};
  host.get_sqe = get_sqe;
  return host;
}();

class NbdLibnbdChannel : public testing::Test, protected nbd::ChannelUser {
 protected:
  void answered(Command& command, int error) override { answers_[&command] = error; }
  void broken(const std::string& why) override { FAIL() << why; }
  void idle() override {}

  // Until `command` is answered, or nothing comes for a long time.
  bool wait_for(const Command& command) {
    while (!answers_.contains(&command))
      if (!turn()) return false;
    return true;
  }
  bool turn() {
    std::vector<pollfd> fds;
    for (const io_uring_sqe& sqe : queue_.sqes)
      fds.push_back({sqe.fd, static_cast<short>(sqe.poll32_events), 0});
    if (poll(fds.data(), fds.size(), 10'000) <= 0) return false;
    const auto ready = static_cast<size_t>(
        std::ranges::find_if(fds, [](const pollfd& fd) { return fd.revents != 0; }) - fds.begin());
    end(ready, fds[ready].revents);
    return true;
  }
  void end(size_t number, int result) {
    const uint64_t user_data = queue_.sqes[number].user_data;
    queue_.sqes.erase(queue_.sqes.begin() + static_cast<ptrdiff_t>(number));
    // NOLINTNEXTLINE(performance-no-int-to-ptr): user_data is a number
    auto* event = reinterpret_cast<ublk_event*>(user_data & ~UBLK_EVENT_USER_DATA_MARK);
    event->handle(event, result, 0);
  }
  // Says that there is something to read, as a CQE does that was true when it was made.
  void tell_readable() {
    const auto sqe = std::ranges::find_if(
        queue_.sqes, [](const io_uring_sqe& each) { return each.poll32_events == POLLIN; });
    if (sqe != queue_.sqes.end()) end(static_cast<size_t>(sqe - queue_.sqes.begin()), POLLIN);
  }

  void open(const std::string& path) {
    nbd::Handle handle =
        nbd::Server("nbd+unix:///?socket=" + path, true).connect(std::chrono::seconds(10));
    const int fd = nbd_aio_get_fd(handle.get());
    channel_.emplace(static_cast<nbd::ChannelUser&>(*this), ublk::HandlerQueue(kHost, &queue_),
                     std::move(handle), fd);
  }
  Command& issue(uint8_t op) {
    ublk_request& request = requests_.emplace_back();
    request.op = op;
    request.buffer = buffer_.data();
    request.length = op == UBLK_OP_FLUSH ? 0 : static_cast<uint32_t>(buffer_.size());
    Command& command = commands_.emplace_back(request);
    channel_->issue(command);
    return command;
  }

  test::TempDir dir_;
  const std::string path_ = dir_ / "socket";
  std::vector<std::byte> buffer_ = std::vector<std::byte>(4096);
  ublk_queue queue_;
  std::deque<ublk_request> requests_;
  std::deque<Command> commands_;
  std::map<const Command*, int> answers_;
  std::optional<nbd::LibnbdChannel> channel_;
};

TEST_F(NbdLibnbdChannel, OneThatIsNotAnsweredHoldsUpNoOther) {
  const NbdServer server(path_, [](int socket, unsigned) {
    const auto slow = NbdServer::receive(socket);
    for (int i = 0; i < 2; ++i)
      if (const auto fast = NbdServer::receive(socket)) NbdServer::answer(socket, *fast);
    if (slow) NbdServer::answer(socket, *slow);
    NbdServer::receive(socket);
  });
  open(path_);
  Command& slow = issue(UBLK_OP_FLUSH);
  Command& fast = issue(UBLK_OP_READ);
  ASSERT_TRUE(wait_for(fast));
  ASSERT_FALSE(answers_.contains(&slow));
  Command& later = issue(UBLK_OP_READ);
  EXPECT_TRUE(wait_for(later)) << "it has not been sent";
  EXPECT_TRUE(wait_for(slow));
}

// More than the socket holds, so that some is left to be sent when nothing comes.
TEST_F(NbdLibnbdChannel, WhatHasBeenBegunIsSentThoughThereWasNothingToRead) {
  buffer_.resize(4 << 20);
  std::atomic<bool> may_receive = false;
  const NbdServer server(path_, [&](int socket, unsigned) {
    may_receive.wait(false);
    while (const auto request = NbdServer::receive(socket)) NbdServer::answer(socket, *request);
  });
  open(path_);
  Command& first = issue(UBLK_OP_WRITE);
  Command& second = issue(UBLK_OP_WRITE);
  tell_readable();
  may_receive = true;
  may_receive.notify_all();
  EXPECT_TRUE(wait_for(first)) << "the rest has not been sent";
  EXPECT_TRUE(wait_for(second));
  channel_.reset();
}

// Sends `bytes` of data as the answer to a READ, by chunks of so many.
void answer_by_chunks(int socket, const NbdServer::Request& request, uint32_t bytes,
                      uint32_t chunk_bytes) {
  const auto chunk = [&](uint16_t type, uint16_t flags, uint32_t length) {
    const wire::Chunk header = {htobe32(wire::kChunkMagic), htobe16(flags), htobe16(type),
                                request.cookie, htobe32(length)};
    send(socket, &header, sizeof(header), MSG_NOSIGNAL);
  };
  for (uint32_t done = 0; done < bytes; done += chunk_bytes) {
    chunk(wire::kChunkData, 0, sizeof(uint64_t) + chunk_bytes);
    const uint64_t offset = htobe64(be64toh(request.offset) + done);
    send(socket, &offset, sizeof(offset), MSG_NOSIGNAL);
    const std::string data(chunk_bytes, 'x');
    send(socket, data.data(), data.size(), MSG_NOSIGNAL);
  }
  chunk(wire::kChunkNone, wire::kLastChunk, 0);
}

TEST_F(NbdLibnbdChannel, DataThatIsLeftOutIsNoSuccess) {
  const NbdServer server(path_,
                         [](int socket, unsigned) {
                           for (const uint32_t bytes : {512, 4096})
                             if (const auto read = NbdServer::receive(socket))
                               answer_by_chunks(socket, *read, bytes, 512);
                           NbdServer::receive(socket);
                         },
                         {.structured_replies = true});
  open(path_);
  Command& partly = issue(UBLK_OP_READ);
  ASSERT_TRUE(wait_for(partly));
  EXPECT_EQ(answers_[&partly], EIO);
  Command& whole = issue(UBLK_OP_READ);
  ASSERT_TRUE(wait_for(whole));
  EXPECT_EQ(answers_[&whole], 0);
  EXPECT_TRUE(std::ranges::all_of(buffer_, [](std::byte b) { return b == std::byte{'x'}; }));
}

}  // namespace
