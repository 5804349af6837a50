// SPDX-License-Identifier: MIT
#include "addresses.h"

#include <netdb.h>

#include <array>
#include <cerrno>
#include <memory>
#include <system_error>

namespace nbd {
namespace {

void check(int error, const std::string& host) {
  if (error == 0) return;
  throw std::system_error(error == EAI_SYSTEM ? errno : EIO, std::generic_category(),
                          host + ": " + gai_strerror(error));
}

}  // namespace

std::vector<std::string> addresses_of(const Uri& uri) {
  addrinfo wanted{};
  wanted.ai_family = AF_UNSPEC;
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  check(getaddrinfo(uri.host.c_str(), uri.port.c_str(), &wanted, &found), uri.host);
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> list(found, freeaddrinfo);
  std::vector<std::string> addresses;
  for (const addrinfo* info = list.get(); info != nullptr; info = info->ai_next) {
    std::array<char, NI_MAXHOST> text;
    check(getnameinfo(info->ai_addr, info->ai_addrlen, text.data(), text.size(), nullptr, 0,
                      NI_NUMERICHOST),
          uri.host);
    addresses.emplace_back(text.data());
  }
  return addresses;
}

}  // namespace nbd
