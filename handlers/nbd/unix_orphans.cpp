// SPDX-License-Identifier: MIT
#include "unix_orphans.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <ublk/unique_fd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <system_error>

namespace nbd {
namespace {

constexpr uint8_t kShutDown = 3;  // both ways: the peer's socket has been closed

void check(ssize_t result) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), "sock_diag");
}

void ask(int fd) {
  struct {
    nlmsghdr header;
    unix_diag_req request;
  } message{};
  message.header = {.nlmsg_len = sizeof(message),
                    .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                    .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
                    .nlmsg_seq = 0,
                    .nlmsg_pid = 0};
  message.request.sdiag_family = AF_UNIX;
  message.request.udiag_states = 1u << TCP_ESTABLISHED;
  message.request.udiag_show = UDIAG_SHOW_NAME;
  check(send(fd, &message, sizeof(message), 0));
}

// Of a message about one socket.
bool is_orphan(const nlmsghdr& message, std::string_view path) {
  auto* attribute = reinterpret_cast<const rtattr*>(reinterpret_cast<const std::byte*>(&message) +
                                                    NLMSG_LENGTH(sizeof(unix_diag_msg)));
  auto left = static_cast<int>(message.nlmsg_len - NLMSG_LENGTH(sizeof(unix_diag_msg)));
  bool has_path = false;
  bool is_shut_down = false;
  for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    const auto* data = static_cast<const char*>(RTA_DATA(attribute));
    const auto length = static_cast<size_t>(RTA_PAYLOAD(attribute));
    if (attribute->rta_type == UNIX_DIAG_NAME)
      has_path = std::string_view(data, strnlen(data, length)) == path;
    else if (attribute->rta_type == UNIX_DIAG_SHUTDOWN)
      is_shut_down = length != 0 && static_cast<uint8_t>(*data) == kShutDown;
  }
  return has_path && is_shut_down;
}

}  // namespace

bool has_orphans(const std::string& path) {
  const ublk::UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  check(fd.get());
  ask(fd.get());
  bool found = false;
  alignas(nlmsghdr) std::array<std::byte, 32768> buffer;
  for (;;) {
    const ssize_t received = recv(fd.get(), buffer.data(), buffer.size(), 0);
    check(received);
    auto left = static_cast<unsigned>(received);
    for (auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data()); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_type == NLMSG_DONE) return found;
      if (message->nlmsg_type == NLMSG_ERROR) {
        errno = -static_cast<const nlmsgerr*>(NLMSG_DATA(message))->error;
        check(-1);
      }
      if (is_orphan(*message, path)) found = true;
    }
  }
}

}  // namespace nbd
