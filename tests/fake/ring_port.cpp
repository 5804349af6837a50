// SPDX-License-Identifier: MIT
#include "ring_port.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <string>

#include "support/sanitizers.h"

#if UBLK_TEST_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace fake {

namespace {

void release_for_tsan([[maybe_unused]] void* address) {
#if UBLK_TEST_TSAN
  __tsan_release(address);
#endif
}

std::string path_of_descriptor(int fd) {
  std::array<char, 256> path{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = readlink(link.c_str(), path.data(), path.size());
  return {path.data(), length > 0 ? static_cast<size_t>(length) : 0};
}

// The kernel lists a ring's file table in the ring's fdinfo, a line "   SLOT: PATH" each. It leaves
// the list out when somebody has the ring's lock.
std::string path_of_slot(int ring_fd, int slot) {
  const std::string wanted = std::to_string(slot) + ":";
  for (int attempt = 0; attempt < 100; ++attempt) {
    std::ifstream info("/proc/self/fdinfo/" + std::to_string(ring_fd));
    bool listed = false;
    for (std::string line; std::getline(info, line);) {
      listed = listed || line.rfind("UserFiles:", 0) == 0;
      const size_t begin = line.find_first_not_of(' ');
      if (listed && begin != std::string::npos && line.compare(begin, wanted.size(), wanted) == 0)
        return line.substr(begin + wanted.size());
    }
    if (listed) break;
  }
  return {};
}

}  // namespace

ino_t inode_of(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

RingPort::RingPort(const io_uring& ring)
    : fd_(ring.ring_fd),
      inode_(inode_of(ring.ring_fd)),
      cq_tail_(ring.cq.ktail),
      enter_fd_(ring.enter_ring_fd),
      thread_(gettid()),
      sq_(ring.sq),
      sqe_shift_((ring.flags & IORING_SETUP_SQE128) != 0 ? 1 : 0) {}

Command& RingPort::take() {
  if (unused_ == nullptr) unused_ = given_back_.exchange(nullptr, std::memory_order_acquire);
  if (unused_ == nullptr) {
    commands_.emplace_back().port = this;
    return commands_.back();
  }
  Command& command = *unused_;
  unused_ = command.next;
  return command;
}

void RingPort::give_back(Command& command) {
  Command* first = given_back_.load(std::memory_order_relaxed);
  do {
    command.next = first;
  } while (!given_back_.compare_exchange_weak(first, &command, std::memory_order_release,
                                              std::memory_order_relaxed));
}

const RingPort::Target& RingPort::target_of(const io_uring_sqe& sqe, uint32_t driver,
                                            NodeTable& nodes) {
  const bool fixed = (sqe.flags & IOSQE_FIXED_FILE) != 0;
  const uint64_t epoch = epoch_.load(std::memory_order_acquire);
  const bool elsewhere =
      !fixed && sqe.cmd_op == static_cast<uint32_t>(ublk::abi::IoOp::kCommitIoCmds);
  if (epoch != known_epoch_ || elsewhere) targets_.clear();
  known_epoch_ = epoch;
  for (const Target& target : targets_)
    if (target.fd == sqe.fd && target.fixed == fixed) return target;
  const std::string path = fixed ? path_of_slot(fd_, sqe.fd) : path_of_descriptor(sqe.fd);
  const uint32_t device = NodeFile::device_of_path(path, driver);
  return targets_.emplace_back(Target{sqe.fd, fixed, device, nodes.find(device)});
}

// Any ring of the library's has as many.
std::optional<RingPort::Buffer> RingPort::take_buffer(io_uring_buf_ring& buffers) {
  constexpr uint16_t kMask = 255;
  if (io_uring_smp_load_acquire(&buffers.tail) == buffers_head_) return std::nullopt;
  const io_uring_buf& buffer = buffers.bufs[buffers_head_++ & kMask];
  return Buffer{pointer_to<std::byte>(buffer.addr), buffer.len, buffer.bid};
}

std::vector<io_uring_sqe*> RingPort::submission() const {
  std::vector<io_uring_sqe*> sqes;
  const unsigned tail = io_uring_smp_load_acquire(sq_.ktail);
  for (unsigned head = io_uring_smp_load_acquire(sq_.khead); head != tail; ++head)
    sqes.push_back(&sq_.sqes[(head & *sq_.kring_mask) << sqe_shift_]);
  return sqes;
}

int RingPort::answer_fd() const { return inode_of(fd_) == inode_ ? fd_ : -1; }

void RingPort::publish() const { release_for_tsan(cq_tail_); }

}  // namespace fake
