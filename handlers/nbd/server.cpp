// SPDX-License-Identifier: MIT
#include "server.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <new>
#include <system_error>

#include "addresses.h"

namespace nbd {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint32_t kMaxPayload = 32u << 20;  // what every server takes
constexpr steady_clock::duration kNoTime{0};
constexpr const char* kCertificates = "/etc/pki/libnbd";  // if the URI names no folder

// The exception's text ends with the errno's, as libnbd's often does, too.
[[noreturn]] void fail(int error, std::string what) {
  const std::error_code code(error != 0 ? error : EIO, std::generic_category());
  if (const std::string end = ": " + code.message(); what.ends_with(end))
    what.erase(what.size() - end.size());
  throw std::system_error(code, what);
}

void check(int result) {
  if (result < 0) fail(nbd_get_errno(), last_error());
}

uint32_t block_size(nbd_handle* handle, int kind) {
  const int64_t size = nbd_get_block_size(handle, kind);
  return static_cast<uint32_t>(std::clamp<int64_t>(size, 0, std::numeric_limits<uint32_t>::max()));
}

// libnbd verifies nobody where it finds no authority of its own, which it does not tell, and nobody
// whose name it does not know, that is, on sockets that are not TCP.
void use_certificates(nbd_handle* handle, const Uri& uri) {
  const std::string folder = uri.certificates.empty() ? kCertificates : uri.certificates;
  if (uri.verify_peer) {
    if (uri.transport != Uri::Transport::kTcp)
      fail(EINVAL,
           "a certificate is verified by TCP only; expected tls-psk-file=FILE, or "
           "tls-verify-peer=false to take any");
    if (const std::string authority = folder + "/ca-cert.pem"; access(authority.c_str(), R_OK) != 0)
      fail(errno, authority +
                      " can't be read, and without it nobody is verified; expected "
                      "tls-certificates=FOLDER, or tls-verify-peer=false to take any server");
  }
  check(nbd_set_tls_certificates(handle, folder.c_str()));
}

// What an error while connecting most likely means, if libnbd's text does not say it.
const char* hint(const Uri& uri, int error, const std::string& text) {
  if (error == ECONNREFUSED) return "no server listens there";
  if (error == ENOENT && text.starts_with("connect:")) return "there is no such socket";
  if (error == ENOTSUP) return uri.tls ? "it has no TLS" : "it may want TLS, by nbds";
  return nullptr;
}

// Nobody has answered at that address.
bool is_of_the_way(int error) {
  return error == ECONNREFUSED || error == ETIMEDOUT || error == EHOSTUNREACH ||
         error == ENETUNREACH || error == EADDRNOTAVAIL;
}

// Until it is connected. False: not by then.
bool wait_ready(nbd_handle* handle, steady_clock::time_point deadline) {
  while (!nbd_aio_is_ready(handle)) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left <= milliseconds::zero()) return false;
    check(nbd_poll(handle, static_cast<int>(left.count())));
    if (nbd_aio_is_dead(handle) || nbd_aio_is_closed(handle))
      fail(ECONNABORTED, "the server has closed the connection");
  }
  return true;
}

}  // namespace

// "nbd_poll: what: why" without the first.
std::string last_error() {
  const char* text = nbd_get_error();
  if (text == nullptr) return "unknown error";
  std::string error = text;
  const size_t name_end = error.find(": ");
  if (error.starts_with("nbd_") && name_end != std::string::npos) error.erase(0, name_end + 2);
  return error;
}

Export::Export(nbd_handle* ready) {
  const int64_t bytes = nbd_get_size(ready);
  if (bytes < 0) fail(nbd_get_errno(), last_error());
  size = static_cast<uint64_t>(bytes);
  minimum_block = block_size(ready, LIBNBD_SIZE_MINIMUM);
  preferred_block = block_size(ready, LIBNBD_SIZE_PREFERRED);
  maximum_payload = block_size(ready, LIBNBD_SIZE_MAXIMUM);
  read_only = nbd_is_read_only(ready) > 0;
  rotational = nbd_is_rotational(ready) > 0;
  can_flush = nbd_can_flush(ready) > 0;
  can_fua = nbd_can_fua(ready) > 0;
  can_trim = nbd_can_trim(ready) > 0;
  can_zero = nbd_can_zero(ready) > 0;
  multi_conn = nbd_can_multi_conn(ready) > 0;
}

uint32_t Export::payload() const {
  return maximum_payload == 0 ? kMaxPayload : std::min(maximum_payload, kMaxPayload);
}

std::string shortcoming(const Export& before, const Export& now) {
  if (now.read_only && !before.read_only) return "the export has become read-only";
  if (now.minimum_block > std::max(before.minimum_block, 512u))
    return "the export's blocks have grown to " + std::to_string(now.minimum_block) + " bytes";
  if (now.payload() < before.payload())
    return "the server takes no more than " + std::to_string(now.payload()) +
           " bytes at once any more";
  const auto lost = [](bool had, bool has) { return had && !has; };
  if (lost(before.can_flush, now.can_flush)) return "the server has no flush any more";
  if (lost(before.can_fua, now.can_fua)) return "the server has no FUA any more";
  if (lost(before.can_trim, now.can_trim)) return "the server has no trim any more";
  if (lost(before.can_zero, now.can_zero)) return "the server has no write-zeroes any more";
  if (lost(before.multi_conn, now.multi_conn))
    return "the server does not take several connections any more";
  return "";
}

// Ranges, alignment and flags are checked by the runner.
Handle Server::prepared() const {
  Handle handle(nbd_create());
  if (handle == nullptr) throw std::bad_alloc();
  nbd_handle* h = handle.get();
  check(nbd_set_export_name(h, uri_.export_name.c_str()));
  check(nbd_set_full_info(h, true));
  check(nbd_set_request_structured_replies(h, structured_replies_));
  check(nbd_set_pread_initialize(h, false));
  check(nbd_set_strict_mode(h, 0));
#ifdef LIBNBD_HAVE_NBD_SET_REQUEST_EXTENDED_HEADERS  // libnbd 1.18; PlainChannel has the short ones
  check(nbd_set_request_extended_headers(h, false));
#endif
  check(nbd_set_tls(h, uri_.tls ? LIBNBD_TLS_REQUIRE : LIBNBD_TLS_DISABLE));
  if (!uri_.tls) return handle;
  check(nbd_set_tls_verify_peer(h, uri_.verify_peer));
  if (!uri_.username.empty()) check(nbd_set_tls_username(h, uri_.username.c_str()));
  if (uri_.psk_file.empty())
    use_certificates(h, uri_);
  else
    check(nbd_set_tls_psk_file(h, uri_.psk_file.c_str()));
  return handle;
}

// As libnbd takes them for TCP: with TLS it must know the name, to verify the server.
std::vector<std::string> Server::addresses() const {
  if (uri_.transport != Uri::Transport::kTcp || uri_.tls) return {uri_.host};
  return addresses_of(uri_);
}

Handle Server::begin(unsigned address) const {
  const std::vector<std::string> all = addresses();
  return begin_at(all[address % all.size()]);
}

Handle Server::begin_at(const std::string& address) const {
  Handle handle = prepared();
  nbd_handle* h = handle.get();
  switch (uri_.transport) {
    case Uri::Transport::kTcp:
      check(nbd_aio_connect_tcp(h, address.c_str(), uri_.port.c_str()));
      break;
    case Uri::Transport::kUnix:
      check(nbd_aio_connect_unix(h, uri_.socket.c_str()));
      break;
    case Uri::Transport::kVsock:
      check(nbd_aio_connect_vsock(h, uri_.cid, uri_.vsock_port));
      break;
  }
  return handle;
}

// Each address has an equal share of the time that is left. The last one's error counts, or that of
// a server that has answered.
Handle Server::connect_any(milliseconds limit) const {
  const auto deadline = steady_clock::now() + limit;
  const std::vector<std::string> all = addresses();
  unsigned address = preferred_address();
  for (auto left = static_cast<int>(all.size());; --left, ++address) {
    const auto now = steady_clock::now();
    try {
      Handle handle = begin_at(all[address % all.size()]);
      if (wait_ready(handle.get(), now + std::max(deadline - now, kNoTime) / left)) {
        prefer_address(address);
        return handle;
      }
      if (left == 1)
        fail(ETIMEDOUT, "no answer within " + std::to_string(limit.count() / 1000) +
                            " s; does it speak NBD, and take one more client?");
    } catch (const std::system_error& e) {
      if (left == 1 || !is_of_the_way(e.code().value())) throw;
    }
  }
}

Handle Server::connect(milliseconds limit) const {
  try {
    return connect_any(limit);
  } catch (const std::system_error& e) {
    std::string text = text_ + ": ";
    if (const char* meaning = hint(uri_, e.code().value(), e.what()))
      text += std::string(meaning) + ": ";
    fail(e.code().value(), text + e.what());
  }
}

}  // namespace nbd
