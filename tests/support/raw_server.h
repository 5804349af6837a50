// SPDX-License-Identifier: MIT
// A server that speaks the bare protocol, rightly or wrongly, and can die. For any driver.
#ifndef UBLK_TESTS_SUPPORT_RAW_SERVER_H
#define UBLK_TESTS_SUPPORT_RAW_SERVER_H

#include <liburing.h>
#include <ublk/abi.h>
#include <ublk/device.h>
#include <ublk/driver.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

namespace test {

// Of queue 0, on one thread. Its end without STOP_DEV is a server's death.
class RawServer {
 public:
  struct Answer {
    uint16_t tag;
    int result;
    bool operator==(const Answer&) const = default;
  };

  RawServer(ublk::Driver& driver, const ublk::abi::DevInfo& info)
      : driver_(driver), node_(ublk::DeviceNode::open(driver, info)) {
    if (const int rc = io_uring_queue_init(256, &ring_, 0); rc < 0)
      throw std::runtime_error("io_uring_queue_init");
    for (uint16_t tag = 0; tag < info.queue_depth; ++tag)
      buffers_.push_back(std::make_unique<std::byte[]>(info.max_io_buf_bytes));
  }
  ~RawServer() { io_uring_queue_exit(&ring_); }
  RawServer(const RawServer&) = delete;
  RawServer& operator=(const RawServer&) = delete;

  const ublk::abi::IoDesc& descriptor(uint16_t tag, uint16_t queue = 0) const {
    return node_->descriptors(queue)[tag];
  }
  std::byte* buffer(uint16_t tag) { return buffers_[tag].get(); }
  uint64_t address(uint16_t tag) { return reinterpret_cast<uint64_t>(buffer(tag)); }

  void command(ublk::abi::IoOp op, const ublk::abi::IoCmd& io) { submit(op, io, io.tag, 0); }
  // PREP or COMMIT of batch I/O; is answered as tag kBatch. `elements` must be there until then.
  static constexpr uint16_t kBatch = UINT16_MAX;
  void batch(ublk::abi::IoOp op, const ublk::abi::BatchIo& io,
             const std::vector<ublk::abi::BatchElement>& elements) {
    submit(op, io, kBatch, reinterpret_cast<uint64_t>(elements.data()));
  }
  void fetch(uint16_t tag) {
    command(ublk::abi::IoOp::kFetchReq, {.q_id = 0, .tag = tag, .result = 0, .addr = address(tag)});
  }
  void commit(uint16_t tag, int result) {
    command(ublk::abi::IoOp::kCommitAndFetchReq,
            {.q_id = 0, .tag = tag, .result = result, .addr = address(tag)});
  }
  void fetch_all() {
    for (uint16_t tag = 0; tag < node_->info().queue_depth; ++tag) fetch(tag);
  }

  // The next answer; none within a while is an error.
  Answer wait() {
    const auto answer = poll(std::chrono::seconds(60));
    if (!answer) throw std::runtime_error("the driver gives no answer");
    return *answer;
  }
  std::optional<Answer> poll(std::chrono::milliseconds timeout) {
    io_uring_cqe* cqe = nullptr;
    __kernel_timespec limit = {.tv_sec = timeout.count() / 1000,
                               .tv_nsec = timeout.count() % 1000 * 1'000'000};
    if (io_uring_wait_cqe_timeout(&ring_, &cqe, &limit) < 0) return std::nullopt;
    io_uring_peek_cqe(&ring_, &cqe);  // once more here, where ThreadSanitizer sees it
    const Answer answer{static_cast<uint16_t>(cqe->user_data), cqe->res};
    io_uring_cqe_seen(&ring_, cqe);
    return answer;
  }

 private:
  template <class Payload>
  void submit(ublk::abi::IoOp op, const Payload& payload, uint64_t user_data, uint64_t address) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) throw std::runtime_error("the ring is full");
    std::memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = node_->fd();
    sqe->addr = address;
    sqe->cmd_op = static_cast<uint32_t>(op);
    sqe->user_data = user_data;
    std::memcpy(sqe->cmd, &payload, sizeof(payload));
    if (driver_.redirects()) driver_.redirect(ring_, *sqe);
    io_uring_submit(&ring_);
  }

  ublk::Driver& driver_;
  std::shared_ptr<ublk::DeviceNode> node_;
  io_uring ring_{};
  std::vector<std::unique_ptr<std::byte[]>> buffers_;
};

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_RAW_SERVER_H
