// SPDX-License-Identifier: MIT
// A request's life in the server's hands: completed exactly once, whatever the backend does.
#include <ublk/handler.h>

#include <atomic>
#include <barrier>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <future>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "request_fixture.h"
#include "support/eventually.h"

namespace fake {
namespace {

namespace abi = ublk::abi;
using ublk::Operation;
using ublk::Request;

TEST_F(RequestTest, DescribesWhatTheBlockLayerAsked) {
  struct Seen {
    uint64_t sector;
    uint32_t length;
    Operation op;
    bool fua, no_unmap, has_buffer;
  };
  std::mutex mutex;
  std::vector<Seen> seen;
  Served served(
      driver(),
      [&](Request request) {
        {
          const std::lock_guard lock(mutex);
          seen.push_back({request.op() == Operation::kFlush ? 0 : request.sector(),
                          request.length(), request.op(), request.fua(), request.no_unmap(),
                          request.buffer() != nullptr});
          EXPECT_EQ(request.sectors() * 512, request.length());
          EXPECT_LT(request.tag(), request.queue().depth());
        }
        request.complete(length_of(request));
      },
      device_spec(kBytes, 1, 8, abi::kAttrVolatileCache | abi::kAttrFua));
  std::vector<std::byte> data(4096);
  EXPECT_EQ(served.disk->read(8, 1, data.data()), 0);
  EXPECT_EQ(served.disk->write(16, 8, data.data(), abi::kIoFlagFua), 0);
  EXPECT_EQ(served.disk->flush(), 0);
  EXPECT_EQ(served.disk->discard(24, 100), 0);
  EXPECT_EQ(served.disk->write_zeroes(200, 300, abi::kIoFlagNoUnmap), 0);
  const std::lock_guard lock(mutex);
  ASSERT_EQ(seen.size(), 5u);
  const Seen expected[] = {{8, 512, Operation::kRead, false, false, true},
                           {16, 4096, Operation::kWrite, true, false, true},
                           {0, 0, Operation::kFlush, false, false, false},
                           {24, 51200, Operation::kDiscard, false, false, false},
                           {200, 153600, Operation::kWriteZeroes, false, true, false}};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(seen[i].op, expected[i].op) << i;
    EXPECT_EQ(seen[i].sector, expected[i].sector) << i;
    EXPECT_EQ(seen[i].length, expected[i].length) << i;
    EXPECT_EQ(seen[i].fua, expected[i].fua) << i;
    EXPECT_EQ(seen[i].no_unmap, expected[i].no_unmap) << i;
    EXPECT_EQ(seen[i].has_buffer, expected[i].has_buffer) << i;
  }
}

// Against the rules; but what was served must not be served again by the loop that goes on.
class ThrowingBackend : public ublk::Backend {
 public:
  void submit(Request request) override {
    const bool is_write = request.op() == Operation::kWrite;
    request.complete(length_of(request));
    if (!is_write) return;
    ++writes;
    throw std::runtime_error("from a callback");
  }
  void failed(ublk::Queue&, uint16_t, int error) override { ADD_FAILURE() << strerror(error); }
  int writes = 0;
};

TEST_F(RequestTest, OneThatThrowsIsServedOnce) {
  ThrowingBackend backend;
  ublk::Control control(driver());
  ublk::Device device(control, device_spec(kBytes));
  int thrown = 0;
  std::promise<void> attached;
  std::jthread thread([&] {
    io_uring uring;
    const unsigned file_slots = ublk::Ring::init(&uring, 256);
    {
      ublk::Ring ring(&uring, file_slots);
      ring.attach(device.node(), 0, backend);
      attached.set_value();
      while (ring.nr_queues() != 0) {
        try {
          ring.run_once();
        } catch (const std::runtime_error&) {
          ++thrown;
        }
      }
    }
    io_uring_queue_exit(&uring);
  });
  attached.get_future().get();
  device.start();
  std::vector<std::byte> data(4096);
  for (uint64_t i = 0; i < 100; ++i)
    EXPECT_EQ(driver().disk(device.id())->write(8 * i, 8, data.data()), 0);
  device.stop();
  thread.join();
  EXPECT_EQ(backend.writes, 100);
  EXPECT_EQ(thrown, 100);
}

TEST_F(RequestTest, DroppedOneFails) {
  std::atomic<bool> careless{true};
  Served served(driver(), [&](Request request) {
    if (careless) return;
    request.complete(length_of(request));
  });
  std::vector<std::byte> data(4096);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(served.disk->read(0, 8, data.data()), -EIO);
  EXPECT_EQ(served.disk->write(0, 8, data.data()), -EIO);
  careless = false;
  EXPECT_EQ(served.disk->read(0, 8, data.data()), 0);
}

TEST_F(RequestTest, DroppedOnAnotherThreadFails) {
  std::vector<std::jthread> threads;
  Served served(driver(),
                [&](Request request) { threads.emplace_back([r = std::move(request)] {}); });
  std::vector<std::byte> data(512);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(served.disk->read(0, 1, data.data()), -EIO);
  served.thread.call([&](ublk::Ring&) { threads.clear(); });
}

TEST_F(RequestTest, HandleIsEmptyAfterItsEnd) {
  Served served(driver(), [&](Request request) {
    Request other = std::move(request);
    // NOLINTBEGIN(bugprone-use-after-move,clang-analyzer-cplusplus.Move): what a moved-from handle
    // is, is the point.
    EXPECT_FALSE(request);
    EXPECT_FALSE(request.complete(0));
    // NOLINTEND(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
    EXPECT_TRUE(other);
    EXPECT_TRUE(other.complete(length_of(other)));
    EXPECT_FALSE(other);
    EXPECT_FALSE(other.complete(-EIO));
    EXPECT_FALSE(Request().complete(0));
  });
  std::vector<std::byte> data(512);
  EXPECT_EQ(served.disk->read(0, 1, data.data()), 0);
}

TEST_F(RequestTest, OverwrittenHandleFailsItsRequest) {
  Request kept;  // the ring's thread's
  Served served(driver(), [&](Request request) { kept = std::move(request); });
  std::vector<std::byte> data(512);
  std::promise<int> first;
  served.disk->submit({.sectors = 1, .data = data.data()},
                      [&](int result) { first.set_value(result); });
  std::promise<int> second;
  served.disk->submit({.sectors = 1, .data = data.data()},
                      [&](int result) { second.set_value(result); });
  EXPECT_EQ(first.get_future().get(), -EIO);
  served.thread.call([&](ublk::Ring&) { kept.complete(512); });
  EXPECT_EQ(second.get_future().get(), 0);
}

TEST_F(RequestTest, SecondCompletionByIdIsSeenAndHarmless) {
  Served served(driver(), [&](Request request) {
    const int length = length_of(request);
    const uint64_t id = request.release();
    EXPECT_NE(id, 0u);
    EXPECT_FALSE(request);
    EXPECT_TRUE(Request::complete(id, length));
    EXPECT_FALSE(Request::complete(id, length));
    EXPECT_FALSE(Request::complete(id, -EIO));
  });
  std::vector<std::byte> data(4096);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(served.disk->read(0, 8, data.data()), 0);
}

TEST_F(RequestTest, HandleIsToldThatItsIdWasCompleted) {
  Served served(driver(), [&](Request request) {
    const int length = length_of(request);
    EXPECT_TRUE(Request::complete(request.id(), length));
    EXPECT_FALSE(request.complete(-EIO));
  });
  std::vector<std::byte> data(512);
  EXPECT_EQ(served.disk->read(0, 1, data.data()), 0);
}

TEST_F(RequestTest, OfManyWhoCompleteOneWins) {
  constexpr int kThreads = 3;
  constexpr int kRounds = kSanitized ? 500 : 3000;
  std::atomic<uint64_t> id{0};
  std::atomic<int> won{0};
  std::barrier round(kThreads + 1);
  Served served(
      driver(), [&](Request request) { id = request.release(); }, device_spec(kBytes, 1, 2));
  {
    std::vector<std::jthread> threads;
    threads.reserve(kThreads);
    for (int i = 0; i < kThreads; ++i)
      threads.emplace_back([&] {
        for (int r = 0; r < kRounds; ++r) {
          round.arrive_and_wait();
          uint64_t mine = 0;
          EXPECT_TRUE(test::eventually([&] { return (mine = id.load()) != 0; }, kHung,
                                       std::this_thread::yield))
              << "round " << r;
          if (Request::complete(mine, 512)) won.fetch_add(1);
          round.arrive_and_wait();
        }
      });
    std::vector<std::byte> data(512);
    for (int r = 0; r < kRounds; ++r) {
      id = 0;
      won = 0;
      round.arrive_and_wait();
      EXPECT_EQ(served.disk->read(0, 1, data.data()), 0);
      round.arrive_and_wait();
      ASSERT_EQ(won, 1) << "round " << r;
    }
  }
}

TEST_F(RequestTest, StaleIdDoesNotEndTheTagsNextRequest) {
  std::vector<uint64_t> ids;  // the ring's thread's
  Served served(
      driver(),
      [&](Request request) {
        for (const uint64_t stale : ids) ASSERT_FALSE(Request::complete(stale, -ENOSPC));
        ids.push_back(request.id());
        request.complete(length_of(request));
      },
      device_spec(kBytes, 1, 1));
  std::vector<std::byte> data(512);
  for (int i = 0; i < 300; ++i) ASSERT_EQ(served.disk->read(0, 1, data.data()), 0);
  served.thread.call(
      [&](ublk::Ring&) { EXPECT_EQ(std::set<uint64_t>(ids.begin(), ids.end()).size(), 300u); });
}

TEST_F(RequestTest, OnlyAFullResultIsSuccess) {
  std::atomic<int> result{0};
  Served served(driver(), [&](Request request) {
    if (request.op() == Operation::kRead) std::memset(request.buffer(), 'x', request.length());
    request.complete(result);
  });
  std::vector<std::byte> data(4096);
  const auto with = [&](int r) {
    result = r;
    return served.disk.get();
  };
  EXPECT_EQ(with(4096)->read(0, 8, data.data()), 0);
  for (const int bad : {0, 1, 512, 4095, 4097, 8192, INT_MAX, -4096, INT_MIN}) {
    EXPECT_EQ(with(bad)->read(0, 8, data.data()), -EIO) << bad;
    EXPECT_EQ(with(bad)->write(0, 8, data.data()), -EIO) << bad;
  }
  EXPECT_EQ(with(-ENOSPC)->write(0, 8, data.data()), -ENOSPC);
  EXPECT_EQ(with(-EREMOTEIO)->read(0, 8, data.data()), -EREMOTEIO);
  for (const int good : {0, 1, 4096}) EXPECT_EQ(with(good)->discard(0, 8), 0) << good;
  EXPECT_EQ(with(-EOPNOTSUPP)->discard(0, 8), -EOPNOTSUPP);
}

TEST_F(RequestTest, ForeignCompletionsPassThroughUntouched) {
  std::vector<io_uring_cqe> seen;
  RingThread thread(256, [&](const io_uring_cqe& cqe) { seen.push_back(cqe); });
  const std::vector<uint64_t> foreign = {
      0,
      1,
      UINT64_MAX,
      reinterpret_cast<uint64_t>(&seen),
      uint64_t{0xb6ff} << 48,
      UBLK_EVENT_USER_DATA_MARK,
      UBLK_EVENT_USER_DATA_MARK | 0x123456789abc,
      uint64_t{0xb702} << 48,
      uint64_t{0xb7} << 40,
  };
  MemoryBackend memory(kBytes);
  ublk::Control control(driver());
  ServedDevice device(control, device_spec(kBytes), memory, {&thread});
  const auto disk = driver().disk(device.id());
  std::vector<std::byte> data(512);
  for (int i = 0; i < 20; ++i) {
    thread.call([&](ublk::Ring& ring) {
      for (const uint64_t user_data : foreign) {
        io_uring_sqe* sqe = ring.get_sqe();
        // A read of no file: an error that nothing else gives.
        io_uring_prep_read(sqe, -1, nullptr, 0, 0);
        io_uring_sqe_set_data64(sqe, user_data);
      }
    });
    EXPECT_EQ(disk->read(0, 1, data.data()), 0);
  }
  thread.call([&](ublk::Ring&) {
    ASSERT_EQ(seen.size(), 20 * foreign.size());
    for (size_t i = 0; i < seen.size(); ++i) {
      EXPECT_EQ(seen[i].user_data, foreign[i % foreign.size()]);
      EXPECT_EQ(seen[i].res, -EBADF);
    }
  });
}

}  // namespace
}  // namespace fake
