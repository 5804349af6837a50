// SPDX-License-Identifier: MIT
#include "unix_orphans.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <ublk/unique_fd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace nbd {
namespace {

constexpr uint8_t kShutDown = 3;  // both ways: the peer's socket has been closed

void check(ssize_t result) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), "sock_diag");
}

// What the kernel tells of unix sockets.
class Diag {
 public:
  Diag() : fd_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)) { check(fd_.get()); }

  void ask(uint16_t flags, const unix_diag_req& request) const {
    struct {
      nlmsghdr header;
      unix_diag_req request;
    } message{};
    message.header = {.nlmsg_len = sizeof(message),
                      .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                      .nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags),
                      .nlmsg_seq = 0,
                      .nlmsg_pid = 0};
    message.request = request;
    check(send(fd_.get(), &message, sizeof(message), 0));
  }

  // Calls it with each message about a socket of a part of the answer. False: that was the last.
  template <class Function>
  bool receive(Function&& with) {
    const ssize_t received = recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
    check(received);
    auto left = static_cast<unsigned>(received);
    for (auto* message = reinterpret_cast<const nlmsghdr*>(buffer_.data()); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_type == NLMSG_DONE) return false;
      if (message->nlmsg_type == NLMSG_ERROR) {
        errno = -static_cast<const nlmsgerr*>(NLMSG_DATA(message))->error;
        check(-1);
      }
      with(*message);
    }
    return true;
  }

 private:
  const ublk::UniqueFd fd_;
  alignas(nlmsghdr) std::array<std::byte, 32768> buffer_;
};

// Calls it with the type and the data of each attribute of a message about one socket.
template <class Function>
void for_each_attribute(const nlmsghdr& message, Function&& with) {
  auto* attribute = reinterpret_cast<const rtattr*>(reinterpret_cast<const std::byte*>(&message) +
                                                    NLMSG_LENGTH(sizeof(unix_diag_msg)));
  auto left = static_cast<int>(message.nlmsg_len - NLMSG_LENGTH(sizeof(unix_diag_msg)));
  for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left))
    with(attribute->rta_type,
         std::string_view(static_cast<const char*>(RTA_DATA(attribute)), RTA_PAYLOAD(attribute)));
}

// As the server has bound it, which need not be the path by which it is reached.
std::string server_name(int client) {
  sockaddr_un address{};
  socklen_t size = sizeof(address);
  check(getpeername(client, reinterpret_cast<sockaddr*>(&address), &size));
  return {address.sun_path, strnlen(address.sun_path, sizeof(address.sun_path))};
}

}  // namespace

// That of this client itself is one of those that are seen.
bool has_orphans(int client) {
  const std::string server = server_name(client);
  if (server.empty()) throw std::runtime_error("the server's socket has no path");
  Diag diag;
  diag.ask(NLM_F_DUMP, {.sdiag_family = AF_UNIX,
                        .sdiag_protocol = 0,
                        .pad = 0,
                        .udiag_states = 1u << TCP_ESTABLISHED,
                        .udiag_ino = 0,
                        .udiag_show = UDIAG_SHOW_NAME,
                        .udiag_cookie = {}});
  bool is_seen = false;
  bool found = false;
  const auto look = [&](const nlmsghdr& message) {
    bool is_of_server = false;
    bool is_shut_down = false;
    for_each_attribute(message, [&](unsigned short type, std::string_view data) {
      if (type == UNIX_DIAG_NAME)
        is_of_server = data.substr(0, data.find('\0')) == server;
      else if (type == UNIX_DIAG_SHUTDOWN)
        is_shut_down = !data.empty() && static_cast<uint8_t>(data.front()) == kShutDown;
    });
    if (is_of_server) is_seen = true;
    if (is_of_server && is_shut_down) found = true;
  };
  while (diag.receive(look)) {
  }
  if (!is_seen) throw std::runtime_error("the server is not to be seen from here");
  return found;
}

bool has_open_peer(int client) {
  struct stat socket {};
  check(fstat(client, &socket));
  Diag diag;
  constexpr uint32_t kAny = ~0u;
  diag.ask(0, {.sdiag_family = AF_UNIX,
               .sdiag_protocol = 0,
               .pad = 0,
               .udiag_states = ~0u,
               .udiag_ino = static_cast<uint32_t>(socket.st_ino),
               .udiag_show = UDIAG_SHOW_PEER,
               .udiag_cookie = {kAny, kAny}});
  // One that is closed has no inode.
  uint32_t peer = 0;
  diag.receive([&](const nlmsghdr& message) {
    for_each_attribute(message, [&](unsigned short type, std::string_view data) {
      if (type == UNIX_DIAG_PEER && data.size() == sizeof(peer))
        std::memcpy(&peer, data.data(), sizeof(peer));
    });
  });
  return peer != 0;
}

}  // namespace nbd
