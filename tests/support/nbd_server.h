// SPDX-License-Identifier: MIT
//
// A server of the NBD protocol on a unix socket, for which the test says what becomes of each
// connection once its handshake is done:
//
//   test::NbdServer server(path, [](int socket, unsigned) {
//     while (const auto request = test::NbdServer::receive(socket))
//       test::NbdServer::answer(socket, *request);
//   });
#ifndef UBLK_TESTS_SUPPORT_NBD_SERVER_H
#define UBLK_TESTS_SUPPORT_NBD_SERVER_H

#include <ublk/unique_fd.h>

#include <climits>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "wire.h"

namespace test {

class NbdServer {
 public:
  static constexpr uint64_t kSize = 1 << 20;  // all of an export reads as zeroes
  using Request = nbd::wire::Request;         // as it came, in network order
  // On a thread of its own. The socket is closed when it returns. Connections count from 0.
  using Serve = std::function<void(int socket, unsigned connection)>;

  struct Settings {
    unsigned clients = UINT_MAX;  // others wait for ever
    unsigned several = UINT_MAX;  // so many are told that it takes several connections (multi-conn)
    bool structured_replies = false;  // are had by who asks; answer() gives none to a READ
    unsigned grows = UINT_MAX;        // from that connection on the export has twice the size
  };

  // Listens at that path, as it is given.
  NbdServer(const std::string& path, Serve serve, const Settings& settings);
  NbdServer(const std::string& path, Serve serve) : NbdServer(path, std::move(serve), Settings()) {}
  // Shuts down the connections and waits for their threads.
  ~NbdServer();
  NbdServer(const NbdServer&) = delete;
  NbdServer& operator=(const NbdServer&) = delete;

  // The next request, with the data of a WRITE behind it. None: the client has ended.
  static std::optional<Request> receive(int socket);
  // It is done, with that error of the protocol or with success.
  static void answer(int socket, const Request& request, uint32_t error = 0);

 private:
  void accept_all();
  void run(int socket, unsigned connection);

  const Serve serve_;
  const Settings settings_;
  const ublk::UniqueFd listener_;
  std::mutex mutex_;
  std::vector<int> sockets_;  // open ones
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_NBD_SERVER_H
