// SPDX-License-Identifier: MIT
#include "connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "attempt.h"
#include "libnbd_channel.h"
#include "plain_channel.h"
#include "tcp_peer.h"
#include "unix_orphans.h"

namespace nbd {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr milliseconds kFirstPause{20};
constexpr milliseconds kLongestPause{2000};
constexpr seconds kStable{1};      // so long a connection must have lasted to be had again at once
constexpr seconds kCloseLimit{2};  // for the server to close an idle connection
constexpr seconds kLookInterval{5};
constexpr milliseconds kCloseInterval{20};

bool is_over(nbd_handle* handle) {
  return nbd_aio_is_dead(handle) > 0 || nbd_aio_is_closed(handle) > 0;
}

}  // namespace

Connection::Connection(ConnectionUser& user, Disk& disk, ublk::HandlerQueue queue)
    : user_(user),
      disk_(disk),
      queue_(queue),
      address_(disk.server->preferred_address()),
      down_since_(steady_clock::now()) {}

// --------------------------------------------------------------- handshake --

void Connection::begin() {
  timer_.set(queue_, disk_.connect_timeout);
  if (disk_.server->begin_blocks()) return resolve();
  try {
    use(disk_.server->begin(address_));
  } catch (const std::system_error& e) {
    failed(e.what());
  }
}

void Connection::resolve() {
  // One that was given up keeps a thread until it returns: no second one meanwhile.
  if (const auto last = last_attempt_.lock(); last != nullptr && last->given_up) return no_answer();
  try {
    attempt_ = std::make_shared<Attempt>();
  } catch (const std::system_error& e) {
    return failed(e.what());
  }
  last_attempt_ = attempt_;
  state_ = State::kResolving;
  resolved_.poll(queue_, attempt_->done, POLLIN);
  disk_.resolver->run([attempt = attempt_, server = disk_.server, address = address_] {
    attempt->run(*server, address);
  });
}

// Or it has been given up.
void Connection::resolved(int) {
  const std::shared_ptr<Attempt> attempt = std::move(attempt_);
  if (state_ != State::kResolving) return try_end();
  if (attempt->handle == nullptr) return failed(attempt->trouble);
  timer_.set(queue_, attempt->left(disk_.connect_timeout));
  use(std::move(attempt->handle));
}

void Connection::use(Handle handle) {
  state_ = State::kConnecting;
  handle_ = std::move(handle);
  advance();
}

void Connection::handshake_event(int) {
  if (state_ != State::kConnecting) return try_end();
  const unsigned direction = nbd_aio_get_direction(handle_.get());
  pollfd ready = {fd_, POLLIN | POLLOUT, 0};
  poll(&ready, 1, 0);
  const bool readable = ready.revents & (POLLIN | POLLHUP | POLLERR);
  if (direction & LIBNBD_AIO_DIRECTION_READ && readable)
    static_cast<void>(nbd_aio_notify_read(handle_.get()));
  else if (direction & LIBNBD_AIO_DIRECTION_WRITE && ready.revents != 0)
    static_cast<void>(nbd_aio_notify_write(handle_.get()));
  advance();
}

void Connection::advance() {
  nbd_handle* h = handle_.get();
  if (is_over(h) || nbd_aio_is_created(h) > 0)  // the latter if no address takes the connection
    return failed(nbd_aio_is_closed(h) > 0 ? "the server closes the connection" : last_error());
  if (nbd_aio_is_ready(h) > 0) return up();
  watch_handshake();
}

// With TLS libnbd may have taken another socket, for the next address of a name.
void Connection::watch_handshake() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fcntl(nbd_aio_get_fd(handle_.get()), F_DUPFD_CLOEXEC, 0);
  if (fd_ < 0) return failed(std::generic_category().message(errno));
  const unsigned direction = nbd_aio_get_direction(handle_.get());
  if (direction & LIBNBD_AIO_DIRECTION_READ) handshake_readable_.poll(queue_, fd_, POLLIN);
  if (direction & LIBNBD_AIO_DIRECTION_WRITE) handshake_writable_.poll(queue_, fd_, POLLOUT);
}

// No command has been issued.
void Connection::failed(const std::string& why) {
  ++address_;
  trouble_ = why;
  if (std::ranges::find(complaints_, why) == complaints_.end()) {
    disk_.log(UBLK_LOG_WARNING, "cannot connect: " + why);
    complaints_.push_back(why);
  }
  end(true);
}

void Connection::no_answer() {
  failed("no answer within " + std::to_string(disk_.connect_timeout.count()) + " s");
}

void Connection::adopt(Handle handle) {
  handle_ = std::move(handle);
  up();
}

void Connection::up() {
  const std::string why = obstacle();
  if (!why.empty()) return failed(why);
  timer_.cancel(queue_);
  keep_alive(fd_);
  state_ = State::kUp;
  disk_.server->prefer_address(address_);
  leaving_ = nullptr;
  renewed_ = false;
  complaints_.clear();
  up_since_ = steady_clock::now();
  if (!std::exchange(trouble_, "").empty()) {
    const auto down = std::chrono::duration_cast<milliseconds>(up_since_ - down_since_);
    disk_.log(UBLK_LOG_INFO, "connected again, after " + std::to_string(down.count()) + " ms");
  }
  auto& user = static_cast<ChannelUser&>(*this);
  if (disk_.server->uri().tls)
    channel_ = std::make_unique<LibnbdChannel>(user, queue_, std::move(handle_), fd_);
  else
    channel_ = std::make_unique<PlainChannel>(user, queue_, fd_);
  handle_.reset();
  user_.connected(*this);
}

// Why the connection is of no use; "": it is.
std::string Connection::obstacle() {
  try {
    if (fd_ < 0) fd_ = fcntl(nbd_aio_get_fd(handle_.get()), F_DUPFD_CLOEXEC, 0);
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "dup");
    const Export now(handle_.get());
    if (now.size < disk_.size)
      return "the export has shrunk from " + std::to_string(disk_.size) + " to " +
             std::to_string(now.size) + " bytes";
    size_ = now.size;
    std::string lack = shortcoming(disk_.first, now);
    if (lack.empty()) disk_.grow(now.size);
    return lack;
  } catch (const std::system_error& e) {
    return e.what();
  }
}

// ---------------------------------------------------------------- commands --

void Connection::issue(Command& command) {
  commands_.push_back(command.link);
  ++in_flight_;
  if (!look_.is_set()) look_.set(queue_, kLookInterval);
  channel_->issue(command);
}

// A server that shuts down refuses commands, without having done them.
void Connection::answered(Command& command, int error) {
  command.link.unlink();
  --in_flight_;
  if (error == ESHUTDOWN && !closing_) {
    Commands refused;
    refused.push_back(command.link);
    leave("the server shuts down");
    user_.unanswered(refused);
  } else {
    user_.complete(command, command.result(error));
  }
  leave_when_idle();
}

void Connection::renew() {
  renewed_ = true;
  leave("the export has grown since it was made");
  leave_when_idle();
}

void Connection::leave(const char* why) {
  if (std::exchange(leaving_, why) == nullptr) user_.lost(*this);
}

void Connection::leave_when_idle() {
  if (leaving_ == nullptr || in_flight_ != 0 || state_ != State::kUp) return;
  channel_->disconnect();
  broken(leaving_);
}

void Connection::broken(const std::string& why) { lose(why, false); }

void Connection::lose(const std::string& why, bool at_once) {
  if (state_ != State::kUp) return;
  trouble_ = why;
  disk_.log(UBLK_LOG_WARNING, "connection lost: " + why);
  end(at_once);
}

// The end of a connection whose other end is silent does not come.
void Connection::look_at_peer() {
  if (in_flight_ == 0) return;
  if (!is_peer_silent(fd_)) return look_.set(queue_, kLookInterval);
  if (state_ == State::kUp)
    lose("nothing comes from the other end", true);
  else
    shut_down();
}

// --------------------------------------------------------------------- end --

// `at_once`: what the server still has is of no use, or can't be had any more.
void Connection::end(bool at_once) {
  const bool was_up = state_ == State::kUp;
  const auto now = steady_clock::now();
  if (was_up) down_since_ = now;
  if (was_up && now - up_since_ > kStable)
    pause_ = milliseconds(0);
  else
    pause_ = std::clamp<milliseconds>(2 * pause_, kFirstPause, kLongestPause);
  state_ = State::kEnding;
  end_seen_ = fd_ < 0;
  handle_.reset();
  if (attempt_ != nullptr) attempt_->give_up();
  if (channel_ != nullptr) channel_->stop();
  if (at_once)
    shut_down();
  else if (fd_ >= 0)  // without commands there is no end to wait for
    ::shutdown(fd_, in_flight_ != 0 || closing_ ? SHUT_WR : SHUT_RDWR);
  timer_.set(queue_, closing_ ? kCloseLimit : disk_.reconnect_timeout);
  if (fd_ >= 0) watch_end();
  if (was_up && leaving_ == nullptr) user_.lost(*this);
  if (end_seen_) try_end();
}

void Connection::shut_down() const {
  if (fd_ < 0) return;
  forget_unsent(fd_);
  ::shutdown(fd_, SHUT_RDWR);
}

void Connection::watch_end() { end_.poll(queue_, fd_, POLLIN | POLLRDHUP); }

// What the server still says is of no use.
void Connection::end_event(int) {
  std::array<char, 4096> rest;
  ssize_t n;
  do {
    n = recv(fd_, rest.data(), rest.size(), MSG_DONTWAIT);
  } while (n > 0 || (n < 0 && errno == EINTR));
  if (n < 0 && errno == EAGAIN) return watch_end();
  await_close();
}

// What the server has shut down it may still close later: qemu does so once its last requests are
// done. Only of a unix socket that is to be seen.
void Connection::await_close() {
  if (in_flight_ != 0 && failure_ == 0 && server_is_open())
    return closes_.set(queue_, kCloseInterval);
  end_seen_ = true;
  shut_down();
  try_end();
}

bool Connection::server_is_open() const {
  try {
    return disk_.server->uri().transport == Uri::Transport::kUnix && has_open_peer(fd_);
  } catch (const std::system_error&) {
    return false;
  }
}

// Everything that uses the socket or the commands must have ended.
void Connection::try_end() {
  if (state_ != State::kEnding || !end_seen_ || end_.armed() || resolved_.armed() ||
      handshake_readable_.armed() || handshake_writable_.armed())
    return;
  if (channel_ != nullptr && !channel_->is_idle()) return;
  ended();
}

void Connection::ended() {
  timer_.cancel(queue_);
  look_.cancel(queue_);
  channel_.reset();
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  state_ = cancelled_ || closing_ ? State::kClosed : State::kWaiting;
  if (state_ == State::kWaiting) timer_.set(queue_, pause_);
  const int failure = std::exchange(failure_, 0);
  Commands commands;
  commands.take_all(commands_);
  in_flight_ = 0;
  if (failure != 0)
    user_.fail(commands, failure);
  else if (!commands.empty())
    user_.unanswered(commands);
  if (closing_) user_.closed();
}

void Connection::time_out() {
  switch (state_) {
    case State::kWaiting:
      return begin();
    case State::kResolving:
      if (const auto left = attempt_->left(disk_.connect_timeout); left.count() > 0)
        return timer_.set(queue_, left);
      [[fallthrough]];
    case State::kConnecting:
      return no_answer();
    case State::kEnding:
      if (in_flight_ != 0) {
        disk_.log(UBLK_LOG_ERROR, "the server does not end the old connection: its I/O fails");
        failure_ = -ETIMEDOUT;
      }
      return shut_down();
    case State::kUp:
    case State::kClosed:
      return;
  }
}

void Connection::cancel() {
  if (std::exchange(cancelled_, true)) return;
  failure_ = -ECANCELED;
  switch (state_) {
    case State::kWaiting:
      timer_.cancel(queue_);
      state_ = State::kClosed;
      return;
    case State::kResolving:
    case State::kConnecting:
    case State::kUp:
      return end(true);
    case State::kEnding:
      return shut_down();
    case State::kClosed:
      return;
  }
}

void Connection::close() {
  closing_ = true;
  switch (state_) {
    case State::kWaiting:
      timer_.cancel(queue_);
      state_ = State::kClosed;
      return user_.closed();
    case State::kResolving:
    case State::kConnecting:
      return end(true);
    case State::kUp:
      channel_->disconnect();
      return end(false);
    case State::kEnding:
      return timer_.set(queue_, kCloseLimit);
    case State::kClosed:
      return user_.closed();
  }
}

}  // namespace nbd
