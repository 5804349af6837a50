// SPDX-License-Identifier: MIT
#include "ublk/control.h"

#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <unordered_map>
#include <utility>

#include "ublk/error.h"

namespace ublk {

namespace {

// The kernel runs most control commands on io-wq's bounded workers, of which there are few by
// default. A START waits for its queues, a STOP for its I/O: some of them would keep out every
// other command. Threads are made only when so many commands wait at once.
constexpr unsigned kMaxIoWorkers = 4096;

// When a Control ends, the kernel has this long to end the commands that are cancelled then; the
// memory of those that it doesn't end is leaked.
constexpr __kernel_timespec kCancelGrace = {.tv_sec = 2, .tv_nsec = 0};

const char* hint(abi::ControlOp op, int error) {
  using Op = abi::ControlOp;
  switch (error) {
    case ETIMEDOUT:
      if (op == Op::kStartDev || op == Op::kEndUserRecovery)
        return "the deadline has passed; are all queues attached and served?";
      if (op == Op::kStopDev)
        return "the deadline has passed; is I/O in flight held by the server?";
      if (op == Op::kDelDev) return "the deadline has passed; who has the device open?";
      return "the deadline has passed";
    case ENODEV:
      return op == Op::kUpdateSize || op == Op::kTryStopDev ? "the device is not started"
                                                            : "there is no such device";
    case EEXIST:
      return op == Op::kAddDev ? "the device id is taken"
                               : "the device is live, or quiesced and waits for recovery";
    case EBUSY:
      if (op == Op::kTryStopDev) return "the disk is open";
      if (op == Op::kStartUserRecovery) return "its old server still has it open";
      return "the device is in use";
    case EINVAL:
      if (op == Op::kAddDev) return "the kernel refuses the queues, the depth, the id or the flags";
      if (op == Op::kSetParams) return "the kernel refuses a parameter";
      if (op == Op::kStartDev) return "no parameters are set, or this process did not open it";
      return "the kernel refuses the command's arguments";
    case EACCES:
    case EPERM:
      if (op == Op::kSetParams) return "parameters can't change while the disk exists";
      return "root (CAP_SYS_ADMIN) is needed";
    case EOPNOTSUPP:
      return "this kernel's ublk driver does not know the command";
    case EINTR:
      return "the command was cancelled";
    default:
      return "";
  }
}

}  // namespace

// A command has up to three CQEs: its own, its deadline's, and a cancellation's, told apart by the
// low bits of user_data; the rest is the command's number.
class Control::Impl {
 public:
  explicit Impl(Driver& driver) : driver_(driver), fd_(driver.open_control()) {
    io_uring_params params{};
    params.flags = IORING_SETUP_SQE128;
    if (const int rc = io_uring_queue_init_params(64, &uring_, &params); rc < 0)
      throw Error(-rc, "io_uring_setup for control commands",
                  rc == -EPERM ? "is kernel.io_uring_disabled set?" : "");
    unsigned workers[2] = {kMaxIoWorkers, 0};
    io_uring_register_iowq_max_workers(&uring_, workers);
  }

  ~Impl() {
    try {
      if (!entries_.empty()) cancel_all();
    } catch (...) {
      // The ring takes no SQE, so nothing more can be cancelled.
    }
    // What can't be cancelled may still write to its buffer: better leaked than freed.
    for (auto& [number, entry] : entries_) static_cast<void>(entry.release());
    io_uring_queue_exit(&uring_);
  }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Driver& driver() const { return driver_; }
  int fd() const { return uring_.ring_fd; }
  size_t pending() const { return unreported_; }

  void submit(Command command, Milliseconds deadline, Callback callback) {
    make_room(2);
    const uint64_t number = next_number_++;
    auto entry = std::make_unique<Entry>(std::move(command), std::move(callback));
    entry->deadline = {.tv_sec = deadline.count() / 1000,
                       .tv_nsec = deadline.count() % 1000 * 1'000'000};
    Entry& e = *entry;
    entries_.emplace(number, std::move(entry));
    ++unreported_;

    // First, so that the kernel has no command without its deadline if it takes only one of them.
    io_uring_sqe* timeout = get_sqe();
    io_uring_prep_timeout(timeout, &e.deadline, 0, 0);
    io_uring_sqe_set_data64(timeout, number << kKindBits | kDeadline);
    prepare_command(e, number);
    io_uring_submit(&uring_);
  }

  void dispatch() {
    // What the kernel would not take before, for want of memory.
    if (io_uring_sq_ready(&uring_) != 0) io_uring_submit(&uring_);
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&uring_, &cqe) == 0) {
      const uint64_t user_data = cqe->user_data;
      const int result = cqe->res;
      io_uring_cqe_seen(&uring_, cqe);
      handle(user_data >> kKindBits, static_cast<Kind>(user_data & kKindMask), result);
    }
  }

  void wait() { io_uring_submit_and_wait(&uring_, 1); }

 private:
  enum Kind : uint64_t { kCommand = 0, kDeadline = 1, kCancel = 2 };
  static constexpr unsigned kKindBits = 2;
  static constexpr uint64_t kKindMask = 3;

  struct Entry {
    Entry(Command c, Callback cb) : command(std::move(c)), callback(std::move(cb)) {}
    Command command;
    Callback callback;
    __kernel_timespec deadline{};
    bool reported = false;
  };

  // The ring is full only when the kernel has refused to take what was prepared, for want of
  // memory.
  bool has_room(unsigned sqes) {
    if (io_uring_sq_space_left(&uring_) < sqes) io_uring_submit(&uring_);
    return io_uring_sq_space_left(&uring_) >= sqes;
  }
  void make_room(unsigned sqes) {
    if (!has_room(sqes)) throw Error(EBUSY, "io_uring_submit of a control command");
  }

  io_uring_sqe* get_sqe() {
    io_uring_sqe* sqe = io_uring_get_sqe(&uring_);
    if (sqe == nullptr) throw std::logic_error("no room for a control command was made");
    return sqe;
  }

  void prepare_command(Entry& entry, uint64_t number) {
    io_uring_sqe* sqe = get_sqe();
    std::memset(sqe, 0, 2 * sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    // Linux 6.12 reads the SQE when io-wq comes to the command, and by then another command can be
    // in its place. Asked for io-wq from the start it makes a copy.
    sqe->flags = IOSQE_ASYNC;
    sqe->fd = fd_.get();
    sqe->cmd_op = static_cast<uint32_t>(entry.command.op_);
    sqe->user_data = number << kKindBits | kCommand;

    abi::CtrlCmd payload{};
    payload.dev_id = entry.command.device_id_;
    payload.queue_id = abi::kNoQueue;
    payload.len = static_cast<uint16_t>(entry.command.buffer_.size());
    payload.addr = reinterpret_cast<uint64_t>(entry.command.buffer_.data());
    payload.data = entry.command.data_;
    std::memcpy(sqe->cmd, &payload, sizeof(payload));
    if (driver_.redirects()) driver_.redirect(uring_, *sqe);
  }

  using Entries = std::unordered_map<uint64_t, std::unique_ptr<Entry>>;

  void handle(uint64_t number, Kind kind, int result) {
    const auto found = entries_.find(number);
    if (found == entries_.end()) return;
    if (kind == kCommand)
      command_ended(found, result);
    else if (kind == kDeadline && result != -ECANCELED)  // passed, or refused for want of memory
      deadline_passed(found);
  }

  void command_ended(Entries::iterator ended, int result) {
    const uint64_t number = ended->first;
    const std::unique_ptr<Entry> entry = std::move(ended->second);
    entries_.erase(ended);
    if (!entry->reported) {
      if (has_room(1)) {  // a deadline that passes later finds no command
        io_uring_sqe* sqe = get_sqe();
        io_uring_prep_timeout_remove(sqe, number << kKindBits | kDeadline, 0);
        io_uring_sqe_set_data64(sqe, number << kKindBits | kCancel);
        io_uring_submit(&uring_);
      }
      report(*entry, result);
    } else if (result >= 0 && entry->command.op() == abi::ControlOp::kAddDev) {
      submit(Command::del(entry->command.info().dev_id), kDefaultDeadline,
             [](int, const Command&) {});
    }
  }

  void deadline_passed(Entries::iterator passed) {
    if (has_room(1)) {
      cancel(passed->first);
      io_uring_submit(&uring_);
    }
    report(*passed->second, -ETIMEDOUT);
  }

  // There must be room.
  void cancel(uint64_t number) {
    io_uring_sqe* sqe = get_sqe();
    io_uring_prep_cancel64(sqe, number << kKindBits | kCommand, 0);
    io_uring_sqe_set_data64(sqe, number << kKindBits | kCancel);
    // Whoever takes commands out of the ring has to end them, too.
    if (driver_.redirects()) driver_.redirect(uring_, *sqe);
  }

  // The callback may submit, so `entry` is referenced no more after it.
  void report(Entry& entry, int result) {
    entry.reported = true;
    --unreported_;
    const Callback callback = std::move(entry.callback);
    const Command command = entry.command;
    callback(result > 0 ? 0 : result, command);
  }

  void cancel_all() {
    for (auto& [number, entry] : entries_) {
      entry->reported = true;
      make_room(1);
      cancel(number);
    }
    const uint64_t end_of_grace = next_number_++ << kKindBits | kDeadline;
    make_room(1);
    io_uring_sqe* sqe = io_uring_get_sqe(&uring_);
    __kernel_timespec grace = kCancelGrace;
    io_uring_prep_timeout(sqe, &grace, 0, 0);
    io_uring_sqe_set_data64(sqe, end_of_grace);
    io_uring_submit(&uring_);
    bool grace_over = false;
    while (!entries_.empty() && !grace_over) {
      io_uring_cqe* cqe = nullptr;
      if (io_uring_wait_cqe(&uring_, &cqe) < 0) continue;
      const uint64_t user_data = cqe->user_data;
      const int result = cqe->res;
      io_uring_cqe_seen(&uring_, cqe);
      grace_over = user_data == end_of_grace;
      // Nobody knows of a device that was added meanwhile: this deletes it.
      if (const auto ended = entries_.find(user_data >> kKindBits);
          ended != entries_.end() && (user_data & kKindMask) == kCommand)
        command_ended(ended, result);
    }
  }

  Driver& driver_;
  const UniqueFd fd_;
  io_uring uring_{};
  Entries entries_;
  uint64_t next_number_ = 1;
  size_t unreported_ = 0;
};

Control::Control(Driver& driver) : impl_(std::make_unique<Impl>(driver)) {}
Control::~Control() = default;

void Control::submit(Command command, Milliseconds deadline, Callback callback) {
  impl_->submit(std::move(command), deadline, std::move(callback));
}

int Control::fd() const { return impl_->fd(); }
void Control::dispatch() { impl_->dispatch(); }
size_t Control::pending() const { return impl_->pending(); }
Driver& Control::driver() const { return impl_->driver(); }

Error Control::error(int result, const Command& command) {
  std::string step = command.name();
  if (command.device_id() != abi::kAnyDeviceId)
    step += " of device " + std::to_string(command.device_id());
  return {-result, std::move(step), hint(command.op(), -result)};
}

Command Control::run(Command command, Milliseconds deadline) {
  struct Outcome {
    bool known;
    int result;
    Command answer;
  };
  // Another command's callback may throw out of dispatch(), before this one has ended.
  const auto outcome = std::make_shared<Outcome>(Outcome{false, 0, command});
  submit(std::move(command), deadline, [outcome](int result, const Command& ended) {
    *outcome = {true, result, ended};
  });
  while (!outcome->known) {
    impl_->wait();
    dispatch();
  }
  if (outcome->result < 0) throw error(outcome->result, outcome->answer);
  return outcome->answer;
}

uint64_t Control::features(Milliseconds deadline) {
  return run(Command::get_features(), deadline).features();
}
abi::DevInfo Control::add(const abi::DevInfo& info, Milliseconds deadline) {
  return run(Command::add(info), deadline).info();
}
void Control::del(uint32_t id, Milliseconds deadline) { run(Command::del(id), deadline); }
void Control::del_async(uint32_t id, Milliseconds deadline) {
  run(Command::del_async(id), deadline);
}
void Control::start(uint32_t id, int server_pid, Milliseconds deadline) {
  run(Command::start(id, server_pid), deadline);
}
void Control::stop(uint32_t id, Milliseconds deadline) { run(Command::stop(id), deadline); }
void Control::set_params(uint32_t id, const abi::Params& params, Milliseconds deadline) {
  run(Command::set_params(id, params), deadline);
}
abi::Params Control::params(uint32_t id, Milliseconds deadline) {
  return run(Command::get_params(id), deadline).params();
}
abi::DevInfo Control::info(uint32_t id, Milliseconds deadline) {
  return run(Command::get_info(id), deadline).info();
}
std::vector<bool> Control::queue_affinity(uint32_t id, uint16_t queue, Milliseconds deadline) {
  return run(Command::get_queue_affinity(id, queue), deadline).affinity();
}

}  // namespace ublk
