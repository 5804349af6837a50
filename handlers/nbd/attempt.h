// SPDX-License-Identifier: MIT
//
// The making of a connection where that may block: on a thread of the Resolver.
#ifndef UBLK_HANDLERS_NBD_ATTEMPT_H
#define UBLK_HANDLERS_NBD_ATTEMPT_H

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <exception>
#include <string>
#include <system_error>

#include "server.h"

namespace nbd {

// A handle that another thread makes. It may have been given up when it is done.
struct Attempt {
  Attempt() : done(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (done < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  }
  ~Attempt() { ::close(done); }
  Attempt(const Attempt&) = delete;
  Attempt& operator=(const Attempt&) = delete;

  // `address`: see Server::begin().
  void run(const Server& server, unsigned address) noexcept {
    if (given_up.load(std::memory_order_relaxed)) return;
    began.store(std::chrono::steady_clock::now().time_since_epoch().count(),
                std::memory_order_relaxed);
    try {
      handle = server.begin(address);
    } catch (const std::exception& e) {
      trouble = e.what();
    }
    tell();
  }
  void tell() const { static_cast<void>(eventfd_write(done, 1)); }
  void give_up() {
    given_up.store(true, std::memory_order_relaxed);
    tell();
  }

  // Of the time that it has, which begins when its turn comes.
  std::chrono::steady_clock::duration left(std::chrono::steady_clock::duration limit) const {
    const std::chrono::steady_clock::duration begin(began.load(std::memory_order_relaxed));
    return begin.count() == 0 ? limit
                              : begin + limit - std::chrono::steady_clock::now().time_since_epoch();
  }

  const int done;  // readable once it is, or has been given up
  std::atomic<bool> given_up{false};
  std::atomic<std::chrono::steady_clock::rep> began{0};  // 0: it waits for others
  Handle handle;
  std::string trouble;
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_ATTEMPT_H
