// SPDX-License-Identifier: MIT
//
// One connection of a queue to the server, made anew whenever it is lost. All on the queue's
// thread, which never waits in here.
#ifndef UBLK_HANDLERS_NBD_CONNECTION_H
#define UBLK_HANDLERS_NBD_CONNECTION_H

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <ublk/handler.hpp>
#include <vector>

#include "channel.h"
#include "disk.h"
#include "ring_event.h"
#include "server.h"

namespace nbd {

struct Attempt;

class Connection;

// Whose connection it is.
class ConnectionUser {
 public:
  virtual void connected(Connection& connection) = 0;
  // It takes no commands any more, those without an answer are still its own.
  virtual void lost(Connection& connection) = 0;
  // Commands that must be issued again, and can be: the server can't do them any more.
  virtual void unanswered(Commands& commands) = 0;
  // The server has answered.
  virtual void complete(Command& command, int result) = 0;
  // Commands that it has not answered, and that can't be issued again.
  virtual void fail(Commands& commands, int error) = 0;
  virtual void closed() = 0;  // after close()

 protected:
  ~ConnectionUser() = default;
};

//         begin() ------------------------------------------- the time has come
//            v                                                     |
//   kResolving, of a name -> kConnecting -> kUp -> kEnding -> kWaiting
//            |                    |          ^        |
//            +------ failed ------+----------|--------+ close()-> kClosed
//                                       adopt()
//
// kEnding: the connection is lost, but the server may still be at work on commands that came by
// it, if there are any. To issue those again now could let an old write overtake a newer one. So
// nothing more is sent, and the server's end of the connection is awaited, on a unix socket until
// it is closed: most servers end it when they have done with it, and the kernel does when the
// server has died.
class Connection final : private ChannelUser {
 public:
  Connection(ConnectionUser& user, Disk& disk, ublk::HandlerQueue queue);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Begins to connect, or uses a handle that is connected. One of both, once.
  void begin();
  void adopt(Handle handle);
  // Fails all commands with ECANCELED, soon, and ends. No more may come.
  void cancel();
  // Ends; calls closed() when nothing is under way any more, in this call or later. Once.
  void close();

  bool is_up() const { return state_ == State::kUp && leaving_ == nullptr; }
  unsigned in_flight() const { return in_flight_; }
  // Bytes of the export, as the server sees it on this connection. While it is up.
  uint64_t size() const { return size_; }
  const std::string& trouble() const { return trouble_; }  // why it is not up, as far as known
  // While it is up.
  void issue(Command& command);
  // It gets no more commands, and is made anew once those that it has are answered. While it is up.
  void renew();
  bool is_renewed() const { return renewed_; }  // since it was up

 private:
  enum class State : uint8_t { kWaiting, kResolving, kConnecting, kUp, kEnding, kClosed };

  void resolve();
  void resolved(int result);
  void use(Handle handle);
  void handshake_event(int result);
  void advance();
  void watch_handshake();
  void failed(const std::string& why);
  void no_answer();
  void up();
  std::string obstacle();

  void answered(Command& command, int error) override;
  void broken(const std::string& why) override;
  void idle() override { try_end(); }

  void leave(const char* why);
  void leave_when_idle();
  void lose(const std::string& why, bool at_once);
  void look_at_peer();
  void end(bool at_once);
  void shut_down() const;
  void watch_end();
  void end_event(int result);
  void await_close();
  bool server_is_open() const;
  void try_end();
  void ended();
  void time_out();

  ConnectionUser& user_;
  Disk& disk_;
  const ublk::HandlerQueue queue_;
  State state_ = State::kWaiting;
  const char* leaving_ = nullptr;  // why it gets no more commands; nullptr: it does
  bool cancelled_ = false;
  bool closing_ = false;   // close() has been called
  bool end_seen_ = false;  // kEnding: the server has ended its side
  int failure_ = 0;        // kEnding: the commands fail with it instead of being issued again
  int fd_ = -1;            // the socket, apart from libnbd's
  bool renewed_ = false;
  uint64_t size_ = 0;
  unsigned in_flight_ = 0;  // commands
  Commands commands_;       // likewise
  unsigned address_;        // number of the one that the next attempt is for, see Server::begin()
  std::shared_ptr<Attempt> attempt_;  // kResolving
  std::weak_ptr<Attempt> last_attempt_;
  Handle handle_;                       // kConnecting
  std::unique_ptr<Channel> channel_;    // kUp, kEnding
  std::chrono::milliseconds pause_{0};  // before the next attempt
  std::chrono::steady_clock::time_point up_since_;
  std::chrono::steady_clock::time_point down_since_;
  std::string trouble_;                  // the last; "": none
  std::vector<std::string> complaints_;  // that have been logged since it was up
  RingEvent<&Connection::resolved> resolved_{*this};
  RingEvent<&Connection::handshake_event> handshake_readable_{*this};
  RingEvent<&Connection::handshake_event> handshake_writable_{*this};
  RingEvent<&Connection::end_event> end_{*this};
  RingTimer<&Connection::time_out> timer_{*this};
  RingTimer<&Connection::look_at_peer> look_{*this};   // while there are commands
  RingTimer<&Connection::await_close> closes_{*this};  // kEnding
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_CONNECTION_H
