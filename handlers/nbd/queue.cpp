// SPDX-License-Identifier: MIT
#include "queue.h"

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

namespace nbd {

using std::chrono::steady_clock;

namespace {

constexpr std::chrono::seconds kShort{3};  // a loss that is nobody's trouble

}  // namespace

Queue::Queue(Disk& disk, ublk::HandlerQueue queue, std::vector<Handle> handles)
    : disk_(disk),
      queue_(queue),
      // Nothing has been lost yet, but the first connections are still to be made.
      patience_(std::max(disk.reconnect_timeout, disk.connect_timeout)),
      nr_open_(static_cast<unsigned>(handles.size())) {
  for (size_t i = 0; i < handles.size(); ++i)
    connections_.push_back(
        std::make_unique<Connection>(static_cast<ConnectionUser&>(*this), disk_, queue_));
  give_up_.set(queue_, patience_);
  keeps_waiting_.set(queue_, kShort);
  for (size_t i = 0; i < handles.size(); ++i) {
    if (handles[i] != nullptr)
      connections_[i]->adopt(std::move(handles[i]));
    else
      connections_[i]->begin();
  }
}

// ---------------------------------------------------------------- requests --

int Queue::submit(ublk_request& request) {
  if (cancelled_) return -ECANCELED;
  Connection* connection = connection_for(request);
  if (connection == nullptr && given_up_) return -ETIMEDOUT;
  if (pending_++ == 0 && connection != nullptr) lost_since_.reset();
  Command& command = *new (request.scratch) Command(request);
  if (connection != nullptr)
    connection->issue(command);
  else
    waiting_.push_back(command.link);
  return UBLK_PENDING;
}

// When another connection has found the export larger, and the device has grown, the server still
// refuses by the older ones what lies beyond their end. What is beyond that of the export it is
// to refuse: the device may have been larger once.
Connection* Queue::connection_for(const ublk_request& request) {
  const uint64_t end = request.offset + request.length;
  if (end <= disk_.size.load(std::memory_order_relaxed))
    for (const auto& connection : connections_)
      if (connection->is_up() && connection->size() < end) connection->renew();
  return least_busy();
}

Connection* Queue::least_busy() const {
  Connection* best = nullptr;
  for (const auto& connection : connections_)
    if (connection->is_up() && (best == nullptr || connection->in_flight() < best->in_flight()))
      best = connection.get();
  return best;
}

void Queue::complete(Command& command, int result) {
  lost_since_.reset();
  finish(command, result);
}

void Queue::finish(Command& command, int result) {
  --pending_;
  disk_.host.complete(command.request.id, result);
}

// ------------------------------------------------------------- connections --

void Queue::connected(Connection&) {
  give_up_.cancel(queue_);
  keeps_waiting_.cancel(queue_);
  given_up_ = false;
  if (std::exchange(in_trouble_, false)) disk_.set_trouble(true, "");
  issue_waiting();
}

void Queue::lost(Connection& connection) {
  const auto now = steady_clock::now();
  if (pending_ == 0 || !lost_since_) lost_since_ = now;
  if (cancelled_ || given_up_ || give_up_.is_set() || least_busy() != nullptr) return;
  patience_ = disk_.reconnect_timeout;
  // It was given up for nothing that is wrong, so that the next one has the time that it takes.
  if (connection.is_renewed()) patience_ = std::max(patience_, disk_.connect_timeout);
  const steady_clock::duration left = *lost_since_ + patience_ - now;
  give_up_.set(queue_, std::max(left, steady_clock::duration::zero()));
  keeps_waiting_.set(queue_, kShort);
}

bool Queue::is_time_over() const {
  if (given_up_) return true;
  // No time at all is for I/O that has no other connection.
  if (!lost_since_ || (disk_.reconnect_timeout.count() == 0 && least_busy() != nullptr))
    return false;
  return steady_clock::now() - *lost_since_ >= disk_.reconnect_timeout;
}

void Queue::unanswered(Commands& commands) {
  waiting_.take_all(commands);
  if (is_time_over()) return fail(waiting_, -ETIMEDOUT);
  issue_waiting();
}

void Queue::issue_waiting() {
  while (!waiting_.empty()) {
    Command& command = waiting_.front();
    Connection* connection = connection_for(command.request);
    if (connection == nullptr) return;
    command.link.unlink();
    connection->issue(command);
  }
}

void Queue::fail(Commands& commands, int error) {
  while (!commands.empty()) {
    Command& command = commands.front();
    command.link.unlink();
    finish(command, error);
  }
}

void Queue::give_up() {
  given_up_ = true;
  disk_.log(UBLK_LOG_ERROR, "no connection within " + std::to_string(patience_.count()) +
                                " s: I/O fails until there is one");
  keeps_waiting_.cancel(queue_);
  tell_trouble("I/O fails");
  fail(waiting_, -ETIMEDOUT);
}

void Queue::keeps_waiting() { tell_trouble("I/O waits"); }

void Queue::tell_trouble(const std::string& what) {
  const std::string& why = connections_.front()->trouble();
  disk_.set_trouble(
      std::exchange(in_trouble_, true),
      "no connection to " + disk_.server->text() + ", " + what + (why.empty() ? "" : ": " + why));
}

void Queue::cancel() {
  cancelled_ = true;
  give_up_.cancel(queue_);
  keeps_waiting_.cancel(queue_);
  for (const auto& connection : connections_) connection->cancel();
  fail(waiting_, -ECANCELED);
}

// --------------------------------------------------------------------- end --

int Queue::close(std::unique_ptr<Queue> queue) {
  Queue& self = *queue;
  self.cancelled_ = true;
  self.give_up_.cancel(self.queue_);
  self.keeps_waiting_.cancel(self.queue_);
  for (const auto& connection : self.connections_) connection->close();
  if (self.nr_open_ == 0) return 0;
  self.closing_ = true;
  static_cast<void>(queue.release());
  return UBLK_PENDING;
}

// The last one, when close() has returned, ends this object: the connection uses nothing of its own
// afterwards.
void Queue::closed() {
  if (--nr_open_ != 0 || !closing_) return;
  const ublk::HandlerQueue queue = queue_;
  delete this;
  queue.closed();
}

}  // namespace nbd
