// SPDX-License-Identifier: MIT
//
// The server of a device's export: how it is connected to, and what it says of the export.
#ifndef UBLK_HANDLERS_NBD_SERVER_H
#define UBLK_HANDLERS_NBD_SERVER_H

#include <libnbd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "uri.h"

namespace nbd {

struct HandleDeleter {
  void operator()(nbd_handle* handle) const { nbd_close(handle); }
};
// A connection, in any state. Used by one thread at a time.
using Handle = std::unique_ptr<nbd_handle, HandleDeleter>;

// What libnbd says of the last call on this thread that failed, without the function's name.
std::string last_error();

// What a connection has learnt about the export.
struct Export {
  explicit Export(nbd_handle* ready);
  Export() = default;
  // The most bytes that a request of the device has.
  uint32_t payload() const;

  uint64_t size = 0;
  // Bytes; 0: the server does not say.
  uint32_t minimum_block = 0;
  uint32_t preferred_block = 0;
  uint32_t maximum_payload = 0;
  bool read_only = false;
  bool rotational = false;
  bool can_flush = false;
  bool can_fua = false;
  bool can_trim = false;
  bool can_zero = false;
  bool multi_conn = false;  // a flush on one connection is one for all
};

// What a device that was made for `before` lacks if the export is now as `now`, apart from its
// size; "": nothing.
std::string shortcoming(const Export& before, const Export& now);

class Server {
 public:
  // `structured_replies`: to be asked for. Throws std::invalid_argument.
  Server(const std::string& uri, bool structured_replies)
      : text_(uri), uri_(parse_uri(uri)), structured_replies_(structured_replies) {}

  const std::string& text() const { return text_; }
  const Uri& uri() const { return uri_; }
  // Whether begin() has a name to resolve, which may take a while.
  bool begin_blocks() const { return uri_.has_name(); }

  // A handle that begins to connect. `address`: a number of one; the next number is the next one,
  // or the first again. Any thread. Throws std::system_error.
  Handle begin(unsigned address) const;
  // That of the last connection that came about. Any thread.
  unsigned preferred_address() const { return preferred_.load(std::memory_order_relaxed); }
  void prefer_address(unsigned address) const {
    preferred_.store(address, std::memory_order_relaxed);
  }
  // One that is connected. Blocks. Throws std::system_error with a text for the user.
  Handle connect(std::chrono::milliseconds limit) const;

 private:
  Handle prepared() const;
  std::vector<std::string> addresses() const;
  Handle begin_at(const std::string& address) const;
  Handle connect_any(std::chrono::milliseconds limit) const;

  const std::string text_;
  const Uri uri_;
  const bool structured_replies_;
  mutable std::atomic<unsigned> preferred_{0};
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_SERVER_H
