// SPDX-License-Identifier: MIT
#include "loop.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <ublk/request.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>

namespace fake {

namespace abi = ublk::abi;

namespace {

constexpr unsigned kSubmitEntries = 1024;
constexpr unsigned kCompletionEntries = 65536;

// user_data of the loop's ring; anything above is the address of a Command.
constexpr uint64_t kWakeup = 1;
constexpr uint64_t kWatched = 2;
constexpr uint64_t kNotDelivered = 3;
constexpr uint64_t kLastNumber = kNotDelivered;

constexpr unsigned kEnterRegisteredRing = 1u << 4;  // IORING_ENTER_REGISTERED_RING

constexpr uint32_t kFirstIoOp = static_cast<uint32_t>(abi::IoOp::kFetchReq) & 0xff;

// All of the SQE but user_data; of a 128-byte one the rest is not looked at.
void make_message(io_uring_sqe& sqe, int ring_fd, uint64_t data, int result) {
  const uint64_t user_data = sqe.user_data;
  std::memset(&sqe, 0, sizeof(sqe));
  sqe.opcode = IORING_OP_MSG_RING;
  sqe.flags = IOSQE_CQE_SKIP_SUCCESS;
  sqe.fd = ring_fd;
  sqe.off = data;
  sqe.len = static_cast<uint32_t>(result);
  sqe.user_data = user_data;
}

// The data of a read that is committed; nothing for other requests.
std::vector<std::byte> data_of_read(NodeFile* node, const abi::IoCmd& io) {
  if (io.result <= 0 || io.addr == 0 || node == nullptr || !node->has(io.q_id, io.tag)) return {};
  const abi::IoDesc& descriptor = node->descriptor(io.q_id, io.tag);
  if ((descriptor.op_flags & abi::kOpMask) != static_cast<uint32_t>(ublk::Operation::kRead))
    return {};
  const size_t bytes =
      std::min<size_t>(descriptor.nr_sectors * size_t{abi::kSectorSize}, io.result);
  const auto* data = pointer_to<const std::byte>(io.addr);
  return {data, data + bytes};
}

thread_local const Loop* loop_of_this_thread = nullptr;

pid_t this_thread() {
  thread_local const pid_t id = gettid();
  return id;
}

}  // namespace

Loop::Loop(Client& client, int watched_fd, uint32_t driver, NodeTable& nodes)
    : client_(client), watched_fd_(watched_fd), driver_(driver), nodes_(nodes) {
  io_uring_params params{};
  params.flags = IORING_SETUP_CQSIZE;
  params.cq_entries = kCompletionEntries;
  if (const int rc = io_uring_queue_init_params(kSubmitEntries, &ring_, &params); rc < 0)
    throw std::system_error(-rc, std::generic_category(), "io_uring_setup");
  wakeup_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  poll(wakeup_.get(), kWakeup);
  poll(watched_fd_, kWatched);
  // Signals are for the threads of the program under test.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Loop::~Loop() {
  post([this] { ending_ = true; });
  thread_.join();
  io_uring_queue_exit(&ring_);
}

// ---------------------------------------------------------- commands, answers --

RingPort& Loop::port_of(const io_uring& ring) {
  // Mostly a thread has one ring. Without a lock, since it would order threads for
  // ThreadSanitizer that nothing orders with the kernel's driver.
  struct Last {
    uint32_t driver = 0;
    RingPort* port = nullptr;
  };
  thread_local Last last;
  const ino_t inode = inode_of(ring.ring_fd);
  if (last.port != nullptr && last.driver == driver_ && last.port->is_port_of(ring.ring_fd, inode))
    return *last.port;
  const std::lock_guard lock(ports_mutex_);
  last.driver = driver_;
  for (const auto& port : ports_) {
    if (!port->is_port_of(ring.ring_fd, inode)) continue;
    last.port = port.get();
    return *port;
  }
  last.port = ports_.emplace_back(std::make_unique<RingPort>(ring)).get();
  return *last.port;
}

void Loop::capture(io_uring& ring, io_uring_sqe& sqe) {
  RingPort& port = port_of(ring);
  Command& command = port.take();
  command.user_data = sqe.user_data;
  command.thread = this_thread();
  command.op = sqe.cmd_op;
  command.valid = true;
  command.silent = (sqe.flags & IOSQE_CQE_SKIP_SUCCESS) != 0;
  if (sqe.opcode == IORING_OP_ASYNC_CANCEL) {
    command.kind = CommandKind::kCancel;
    command.cancels = sqe.addr;
  } else if ((command.op & 0xff) >= kFirstIoOp) {
    command.kind = CommandKind::kIo;
    capture_io(command, sqe);
  } else {
    command.kind = CommandKind::kControl;
    command.valid = (ring.flags & IORING_SETUP_SQE128) != 0;
    if (command.valid) std::memcpy(&command.control, sqe.cmd, sizeof(command.control));
  }
  // Release: all of the above, and that the server has done with the tag's buffer.
  command.sent.store(true, std::memory_order_release);
  make_message(sqe, ring_.ring_fd, reinterpret_cast<uint64_t>(&command), 0);
}

void Loop::capture_io(Command& command, const io_uring_sqe& sqe) {
  const RingPort::Target& target = command.port->target_of(sqe, driver_, nodes_);
  command.device = target.device;
  if (command.is_batch()) {
    capture_batch(command, sqe, target.node.lock().get());
    return;
  }
  std::memcpy(&command.io, sqe.cmd, sizeof(command.io));
  command.registration = sqe.addr;
  // A read's data must be taken now: the kernel copies it when it takes the SQE, and then the
  // buffer is the server's again.
  command.data.clear();
  const abi::IoCmd& io = command.io;
  if (command.io_op() != abi::IoOp::kCommitAndFetchReq) return;
  command.data = data_of_read(target.node.lock().get(), io);
}

void Loop::capture_batch(Command& command, const io_uring_sqe& sqe, NodeFile* node) {
  std::memcpy(&command.batch, sqe.cmd, sizeof(command.batch));
  command.elements.clear();
  if (command.io_op() == abi::IoOp::kFetchIoCmds) {
    command.buffers = pointer_to<io_uring_buf_ring>(sqe.addr);
    return;
  }
  const size_t bytes = std::min<size_t>(command.batch.elem_bytes, sizeof(abi::BatchElement));
  const auto* from = pointer_to<const std::byte>(sqe.addr);
  for (unsigned i = 0; i < command.batch.nr_elem; ++i, from += bytes) {
    abi::BatchElement element{};
    std::memcpy(&element, from, bytes);
    command.elements.push_back({element, {}});
    if (command.io_op() != abi::IoOp::kCommitIoCmds) continue;
    command.elements.back().data = data_of_read(node, {.q_id = command.batch.q_id,
                                                       .tag = element.tag,
                                                       .result = element.result,
                                                       .addr = element.buf_addr});
  }
}

void Loop::answer(Command& command, int result) {
  RingPort& port = *command.port;
  const uint64_t user_data = command.user_data;
  const bool silent = command.silent && result >= 0;
  if (result < 0) port.forget_targets();
  port.give_back(command);
  const int fd = port.answer_fd();
  if (fd < 0 || silent) return;
  port.publish();
  io_uring_sqe& sqe = get_sqe();
  sqe.user_data = kNotDelivered;
  make_message(sqe, fd, user_data, result);
}

void Loop::answer_more(const Command& command, int result, uint32_t cqe_flags) {
  const int fd = command.port->answer_fd();
  if (fd < 0) return;
  command.port->publish();
  io_uring_sqe& sqe = get_sqe();
  sqe.user_data = kNotDelivered;
  make_message(sqe, fd, command.user_data, result);
  constexpr uint32_t kPassFlags = 1u << 1;  // IORING_MSG_RING_FLAGS_PASS, Linux 6.3
  sqe.rw_flags = kPassFlags;
  sqe.file_index = cqe_flags | IORING_CQE_F_MORE;
}

void Loop::bury_rings() {
  const std::lock_guard lock(ports_mutex_);
  for (const auto& port : ports_) port->bury();
}

std::optional<std::vector<io_uring_sqe*>> Loop::submission(int ring_fd, unsigned flags,
                                                           pid_t thread) {
  const bool registered = (flags & kEnterRegisteredRing) != 0;
  if (!registered && ring_fd == ring_.ring_fd) return std::vector<io_uring_sqe*>{};
  const ino_t inode = registered ? 0 : inode_of(ring_fd);
  const std::lock_guard lock(ports_mutex_);
  for (const auto& port : ports_)
    if (registered ? port->is_registered_as(ring_fd, thread) : port->is_port_of(ring_fd, inode))
      return port->submission();
  return std::nullopt;
}

// ----------------------------------------------------------------- the thread --

bool Loop::on_thread() const { return loop_of_this_thread == this; }

void Loop::run() {
  loop_of_this_thread = this;
  while (true) {
    run_posted();
    if (ending_) return;
    io_uring_submit_and_wait(&ring_, anything_posted() ? 0 : 1);
    unsigned head;
    unsigned count = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(&ring_, head, cqe) {
      handle(*cqe);
      ++count;
    }
    io_uring_cq_advance(&ring_, count);
  }
}

void Loop::handle(const io_uring_cqe& cqe) {
  const bool rearm = (cqe.flags & IORING_CQE_F_MORE) == 0;
  if (cqe.user_data > kLastNumber) {
    auto& command = *pointer_to<Command>(cqe.user_data);
    static_cast<void>(command.sent.load(std::memory_order_acquire));
    client_.handle(command);
  } else if (cqe.user_data == kWakeup && rearm) {
    poll(wakeup_.get(), kWakeup);
  } else if (cqe.user_data == kWatched) {
    if (rearm) poll(watched_fd_, kWatched);
    client_.readable();
  }
  // kNotDelivered: the server's ring has gone meanwhile, as when a server dies.
}

void Loop::poll(int fd, uint64_t user_data) {
  io_uring_sqe& sqe = get_sqe();
  io_uring_prep_poll_multishot(&sqe, fd, POLLIN);
  sqe.user_data = user_data;
}

io_uring_sqe& Loop::get_sqe() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    io_uring_submit(&ring_);
    sqe = io_uring_get_sqe(&ring_);
  }
  if (sqe == nullptr) throw std::system_error(EBUSY, std::generic_category(), "io_uring_submit");
  return *sqe;
}

// --------------------------------------------------------------------- tasks --

void Loop::tell_disk_closed() {
  post([this] { client_.disk_closed(); });
}

void Loop::post(std::function<void()> task) {
  bool first;
  {
    const std::lock_guard lock(posted_mutex_);
    first = posted_.empty();
    posted_.push_back(std::move(task));
  }
  // The thread looks before it waits, so only who finds the list empty must wake it.
  const uint64_t one = 1;
  if (first && !on_thread()) static_cast<void>(!write(wakeup_.get(), &one, sizeof(one)));
}

void Loop::run_posted() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(posted_mutex_);
    tasks.swap(posted_);
  }
  for (auto& task : tasks) task();
}

bool Loop::anything_posted() {
  const std::lock_guard lock(posted_mutex_);
  return !posted_.empty();
}

}  // namespace fake
