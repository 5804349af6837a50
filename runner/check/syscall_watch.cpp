// SPDX-License-Identifier: MIT
#include "syscall_watch.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <future>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

namespace ublk_check {

namespace {

struct Watched {
  int number;
  const char* name;
  enum Kind { kSync, kWrite, kWriteWithFlags, kMessage, kRing } kind;
};
constexpr Watched kWatched[] = {
    {SYS_fsync, "fsync", Watched::kSync},
    {SYS_fdatasync, "fdatasync", Watched::kSync},
    {SYS_msync, "msync", Watched::kSync},
    {SYS_sync, "sync", Watched::kSync},
    {SYS_syncfs, "syncfs", Watched::kSync},
    {SYS_write, "write", Watched::kWrite},
    {SYS_writev, "writev", Watched::kWrite},
    {SYS_pwrite64, "pwrite", Watched::kWrite},
    {SYS_pwritev, "pwritev", Watched::kWrite},
    {SYS_pwritev2, "pwritev2", Watched::kWriteWithFlags},
    {SYS_fallocate, "fallocate", Watched::kWrite},
    {SYS_sendto, "sendto", Watched::kMessage},
    {SYS_sendmsg, "sendmsg", Watched::kMessage},
    {SYS_sendmmsg, "sendmmsg", Watched::kMessage},
    {SYS_sendfile, "sendfile", Watched::kMessage},
    {SYS_splice, "splice", Watched::kMessage},
    {SYS_ioctl, "ioctl", Watched::kMessage},
    {SYS_io_uring_enter, "io_uring_enter", Watched::kRing},
};

const Watched& watched(int number) {
  for (const Watched& call : kWatched)
    if (call.number == number) return call;
  return kWatched[0];  // the filter lets no other through
}

// On this thread; returns the listener.
int install_filter() {
  constexpr size_t kCalls = std::size(kWatched);
  std::array<sock_filter, kCalls + 3> filter{};
  filter[0] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  for (size_t i = 0; i < kCalls; ++i)
    filter[1 + i] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(kWatched[i].number),
                             static_cast<uint8_t>(kCalls - i), 0);
  filter[kCalls + 1] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  filter[kCalls + 2] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF);
  const sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return static_cast<int>(
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}

bool is_synced_file(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_DSYNC) != 0;
}

bool is_eventfd(int fd) {
  std::array<char, 64> target{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = readlink(link.c_str(), target.data(), target.size() - 1);
  return length > 0 && std::string(target.data()) == "anon_inode:[eventfd]";
}

}  // namespace

struct SyscallWatch::Call {
  const Watched& what;
  const seccomp_data& data;
  pid_t thread;

  int fd() const { return static_cast<int>(data.args[0]); }
};

SyscallWatch& SyscallWatch::start(fake::Driver& driver) {
  auto* watch = new SyscallWatch(driver);
  // The supervisor's thread is there before the filter, and so not under it.
  std::promise<int> listener;
  std::thread([watch, found = listener.get_future().share()] {
    if (const int fd = found.get(); fd >= 0) watch->serve(fd);
  }).detach();
  const int fd = install_filter();
  const int error = errno;
  listener.set_value(fd);
  if (fd < 0) throw std::system_error(error, std::generic_category(), "seccomp");
  return *watch;
}

void SyscallWatch::begin() {
  const std::lock_guard lock(mutex_);
  acts_ = {};
  watching_ = true;
}

Acts SyscallWatch::end() {
  const std::lock_guard lock(mutex_);
  watching_ = false;
  return std::exchange(acts_, {});
}

void SyscallWatch::fail_syncs(bool fail) {
  const std::lock_guard lock(mutex_);
  failing_ = fail;
}

void SyscallWatch::serve(int listener) {
  for (;;) {
    seccomp_notif notice{};
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notice) != 0) {
      if (errno == EINTR || errno == ENOENT) continue;
      return;
    }
    const int error = judge({watched(notice.data.nr), notice.data, static_cast<pid_t>(notice.pid)});
    seccomp_notif_resp answer{};
    answer.id = notice.id;
    if (error != 0)
      answer.error = -error;
    else
      answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }
}

// An errno for the caller; 0: the call goes on.
int SyscallWatch::judge(const Call& call) {
  const std::lock_guard lock(mutex_);
  if (!watching_) return 0;
  switch (call.what.kind) {
    case Watched::kSync:
      return sync(call.what.name);
    case Watched::kWrite:
      judge_write(call.what.name, call.fd(), false);
      return 0;
    case Watched::kWriteWithFlags:
      judge_write(call.what.name, call.fd(), (call.data.args[5] & (RWF_DSYNC | RWF_SYNC)) != 0);
      return 0;
    case Watched::kMessage:
      acts_.messages.insert(call.what.name);
      return 0;
    case Watched::kRing:
      return judge_submission(call);
  }
  return 0;
}

int SyscallWatch::sync(const char* name) {
  acts_.syncs.insert(name);
  if (!failing_) return 0;
  ++acts_.failed;
  return EIO;
}

void SyscallWatch::judge_write(const char* name, int fd, bool synced) {
  struct stat status {};
  if (fd <= STDERR_FILENO || fstat(fd, &status) != 0 || is_eventfd(fd)) return;
  const bool stored = S_ISREG(status.st_mode) || S_ISBLK(status.st_mode);
  if (!stored)
    acts_.messages.insert(name);
  else if (synced || is_synced_file(fd))
    acts_.syncs.insert(name);
  else
    acts_.writes.insert(name);
}

// The submitting thread waits in its call, so its SQEs stand still.
int SyscallWatch::judge_submission(const Call& call) {
  if (call.data.args[1] == 0) return 0;  // it only waits
  const auto sqes =
      driver_.submission(call.fd(), static_cast<unsigned>(call.data.args[3]), call.thread);
  if (!sqes) {
    acts_.messages.insert("an io_uring of its own");
    return 0;
  }
  for (io_uring_sqe* sqe : *sqes) {
    switch (sqe->opcode) {
      case IORING_OP_FSYNC:
        if (sync("SQE of fsync") == 0) break;
        sqe->flags &= static_cast<uint8_t>(~IOSQE_FIXED_FILE);
        sqe->fd = -1;
        break;
      case IORING_OP_WRITE:
      case IORING_OP_WRITEV:
      case IORING_OP_WRITE_FIXED: {
        const bool synced = (sqe->rw_flags & (RWF_DSYNC | RWF_SYNC)) != 0;
        if ((sqe->flags & IOSQE_FIXED_FILE) == 0)
          judge_write("SQE of write", sqe->fd, synced);
        else
          (synced ? acts_.syncs : acts_.messages).insert("SQE of write");
        break;
      }
      case IORING_OP_SEND:
      case IORING_OP_SENDMSG:
      case IORING_OP_SPLICE:
      case IORING_OP_URING_CMD:
        acts_.messages.insert("SQE");
        break;
      default:
        break;
    }
  }
  return 0;
}

}  // namespace ublk_check
