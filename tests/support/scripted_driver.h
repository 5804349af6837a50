// SPDX-License-Identifier: MIT
//
// A driver of one device for tests of single queues: the test says which requests come, and sees
// what was committed. Its /dev/ublkcN is a memory file with the descriptors; a command is rewritten
// into a NOP that ends at once when there is a request for its tag, and never when there is none.
#ifndef UBLK_SCRIPTED_DRIVER_H
#define UBLK_SCRIPTED_DRIVER_H

#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "ublk/abi.h"
#include "ublk/driver.h"
#include "ublk/ring.h"

namespace ublk_test {

// One queue, tags from 0. Functions are for the queue's thread, unless said otherwise.
class ScriptedDriver final : public ublk::Driver {
 public:
  explicit ScriptedDriver(uint16_t depth) : Driver(true), depth_(depth), parked_(depth) {
    file_.reset(memfd_create("ublkc", MFD_CLOEXEC));
    const size_t size = (depth * sizeof(ublk::abi::IoDesc) + 4095) / 4096 * 4096;
    // Up to the end of what user copy reads and writes.
    const uint64_t end = ublk::abi::user_copy_offset(0, depth, 0);
    if (!file_ || ftruncate(file_.get(), static_cast<off_t>(end)) != 0)
      throw std::runtime_error("memfd_create");
    void* map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    descriptors_ = static_cast<ublk::abi::IoDesc*>(map);
    null_.reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
  }

  ublk::abi::DevInfo info() const {
    ublk::abi::DevInfo info{};
    info.nr_hw_queues = 1;
    info.queue_depth = depth_;
    info.max_io_buf_bytes = 64 << 10;
    return info;
  }

  // A request for `tag`, now if the tag is here, else when it comes back.
  void push(ublk::Ring& ring, uint16_t tag, const ublk::abi::IoDesc& request) {
    if (!parked_[tag].has_value()) {
      waiting_[tag].push_back(request);
      return;
    }
    descriptors_[tag] = request;
    const uint64_t user_data = *std::exchange(parked_[tag], std::nullopt);
    io_uring_sqe* sqe = ring.get_sqe();
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data64(sqe, user_data);
  }

  // Gives every tag back that is here, and each later one when it comes, as STOP_DEV does.
  void stop(ublk::Ring& ring) {
    stopped_ = true;
    for (auto& tag : parked_)
      if (tag.has_value()) abort(*ring.get_sqe(), *std::exchange(tag, std::nullopt));
  }

  // The next result that was committed for a tag. Waits; any thread but the queue's.
  int committed(uint16_t tag) {
    std::unique_lock lock(mutex_);
    const bool in_time =
        changed_.wait_for(lock, std::chrono::seconds(10), [&] { return !committed_[tag].empty(); });
    if (!in_time) throw std::runtime_error("nothing is committed");
    const int result = committed_[tag].front();
    committed_[tag].pop_front();
    return result;
  }
  // Where the data of the tag's next write is to go, as the last commit says. Any thread.
  uint64_t address_of(uint16_t tag) {
    const std::lock_guard lock(mutex_);
    return addresses_[tag];
  }
  // Any thread.
  bool has_committed(uint16_t tag) {
    const std::lock_guard lock(mutex_);
    return !committed_[tag].empty();
  }

  ublk::UniqueFd open_control() override { throw std::logic_error("no control"); }
  ublk::UniqueFd open_device(uint32_t) override {
    return ublk::UniqueFd(fcntl(file_.get(), F_DUPFD_CLOEXEC, 0));
  }

  void redirect(io_uring&, io_uring_sqe& sqe) override {
    const uint64_t user_data = sqe.user_data;
    const auto op = static_cast<ublk::abi::IoOp>(sqe.off);
    ublk::abi::IoCmd command;
    std::memcpy(&command, sqe.cmd, sizeof(command));
    if (op == ublk::abi::IoOp::kCommitAndFetchReq) {
      const std::lock_guard lock(mutex_);
      committed_[command.tag].push_back(command.result);
      addresses_[command.tag] = command.addr;
      changed_.notify_all();
    }
    std::deque<ublk::abi::IoDesc>& waiting = waiting_[command.tag];
    if (stopped_) {
      abort(sqe, user_data);
      return;
    }
    io_uring_prep_nop(&sqe);
    io_uring_sqe_set_data64(&sqe, user_data);
    if (waiting.empty()) {
      parked_[command.tag] = user_data;
      sqe.flags = IOSQE_CQE_SKIP_SUCCESS;
    } else {
      descriptors_[command.tag] = waiting.front();
      waiting.pop_front();
    }
  }

 private:
  // A CQE with -ENODEV: what the kernel says to fallocate() on what is no file.
  void abort(io_uring_sqe& sqe, uint64_t user_data) const {
    io_uring_prep_fallocate(&sqe, null_.get(), 0, 0, 1);
    io_uring_sqe_set_data64(&sqe, user_data);
  }

  const uint16_t depth_;
  ublk::UniqueFd file_;
  ublk::UniqueFd null_;
  ublk::abi::IoDesc* descriptors_;
  std::vector<std::optional<uint64_t>> parked_;  // user_data of the tags that are here
  std::map<uint16_t, std::deque<ublk::abi::IoDesc>> waiting_;
  bool stopped_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint16_t, std::deque<int>> committed_;
  std::map<uint16_t, uint64_t> addresses_;
};

}  // namespace ublk_test

#endif  // UBLK_SCRIPTED_DRIVER_H
