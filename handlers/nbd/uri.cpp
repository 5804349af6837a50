// SPDX-License-Identifier: MIT
#include "uri.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <charconv>
#include <stdexcept>
#include <string_view>

namespace nbd {
namespace {

constexpr const char* kDefaultPort = "10809";

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("uri: " + what); }

std::string quoted(std::string_view text) { return '"' + std::string(text) + '"'; }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string decoded(std::string_view text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      result += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    if (high < 0 || low < 0 || (high == 0 && low == 0))
      refuse("expected two hexadecimal digits, not 00, after % in " + quoted(text));
    result += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return result;
}

// The part of `text` before `mark`, which goes with it; all of it if there is no mark.
std::string_view cut(std::string_view& text, char mark) {
  const size_t end = text.find(mark);
  const std::string_view head = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return head;
}

uint32_t number(std::string_view text, const char* what) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    refuse(std::string("expected a number as ") + what + ", got " + quoted(text));
  return value;
}

void parse_scheme(std::string_view scheme, Uri& uri) {
  const std::string_view name = cut(scheme, '+');
  if (name != "nbd" && name != "nbds")
    refuse("expected nbd or nbds before ://, alone or with +unix or +vsock, got " + quoted(name));
  uri.tls = name == "nbds";
  if (scheme == "unix")
    uri.transport = Uri::Transport::kUnix;
  else if (scheme == "vsock")
    uri.transport = Uri::Transport::kVsock;
  else if (!scheme.empty() && scheme != "tcp")
    refuse("there is no transport " + quoted(scheme) + ", expected unix or vsock");
}

// HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT.
void parse_host(std::string_view host, Uri& uri) {
  if (host.starts_with('[')) {
    host.remove_prefix(1);
    if (host.find(']') == std::string_view::npos) refuse("expected ] after the address");
    uri.host = decoded(cut(host, ']'));
    if (!host.empty() && !host.starts_with(':')) refuse("expected :PORT after the address");
    if (!host.empty()) host.remove_prefix(1);
  } else {
    uri.host = decoded(cut(host, ':'));
  }
  uri.port = host.empty() ? kDefaultPort : std::string(host);
  if (uri.host.empty()) uri.host = "localhost";
  if (const uint32_t port = number(uri.port, "the port"); port == 0 || port > 65535)
    refuse("the port is " + uri.port + ", expected 1 to 65535");
}

void parse_authority(std::string_view authority, Uri& uri) {
  if (authority.find('@') != std::string_view::npos) uri.username = decoded(cut(authority, '@'));
  switch (uri.transport) {
    case Uri::Transport::kTcp:
      return parse_host(authority, uri);
    case Uri::Transport::kUnix:
      if (!authority.empty()) refuse("a unix socket has no host, expected nbd+unix:///...");
      return;
    case Uri::Transport::kVsock:
      uri.cid = number(cut(authority, ':'), "the context id of vsock");
      uri.vsock_port = number(authority.empty() ? kDefaultPort : authority, "the port");
      return;
  }
}

void parse_parameter(std::string_view parameter, Uri& uri) {
  const std::string_view name = cut(parameter, '=');
  const std::string value = decoded(parameter);
  if (name == "socket")
    uri.socket = value;
  else if (name == "tls-certificates")
    uri.certificates = value;
  else if (name == "tls-psk-file")
    uri.psk_file = value;
  else if (name == "tls-verify-peer")
    uri.verify_peer = value != "false";
  else
    refuse("there is no parameter " + quoted(name) +
           ", expected socket, tls-certificates, tls-psk-file or tls-verify-peer");
  if (name == "tls-verify-peer" && value != "false" && value != "true")
    refuse("tls-verify-peer is " + quoted(value) + ", expected true or false");
}

void check(const Uri& uri) {
  const bool is_unix = uri.transport == Uri::Transport::kUnix;
  if (is_unix && !uri.socket.starts_with('/'))
    refuse("expected ?socket= and the absolute path of the unix socket");
  if (!is_unix && !uri.socket.empty()) refuse("socket= needs nbd+unix or nbds+unix");
  const bool has_credentials = !uri.certificates.empty() || !uri.psk_file.empty();
  if (!uri.tls && has_credentials) refuse("TLS parameters need nbds");
}

}  // namespace

bool Uri::has_name() const {
  in6_addr address;  // of either kind
  return transport == Transport::kTcp && inet_pton(AF_INET, host.c_str(), &address) != 1 &&
         inet_pton(AF_INET6, host.c_str(), &address) != 1;
}

Uri parse_uri(const std::string& text) {
  std::string_view rest = text;
  const size_t scheme_end = rest.find("://");
  if (scheme_end == std::string_view::npos)
    refuse("expected nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH, got " + quoted(text));
  Uri uri;
  parse_scheme(rest.substr(0, scheme_end), uri);
  rest.remove_prefix(scheme_end + 3);
  if (rest.find('#') != std::string_view::npos) refuse("expected no #");

  std::string_view path = cut(rest, '?');
  parse_authority(cut(path, '/'), uri);
  uri.export_name = decoded(path);
  while (!rest.empty()) parse_parameter(cut(rest, '&'), uri);
  check(uri);
  return uri;
}

}  // namespace nbd
