// SPDX-License-Identifier: MIT
//
// The URI of an export, as https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md has it.
#ifndef UBLK_HANDLERS_NBD_URI_H
#define UBLK_HANDLERS_NBD_URI_H

#include <cstdint>
#include <string>

namespace nbd {

struct Uri {
  enum class Transport { kTcp, kUnix, kVsock };

  bool has_name() const;  // that is to be resolved: the host is no address

  Transport transport = Transport::kTcp;
  bool tls = false;
  std::string host;    // kTcp
  std::string port;    // kTcp
  std::string socket;  // kUnix: an absolute path
  uint32_t cid = 0;    // kVsock
  uint32_t vsock_port = 0;
  std::string export_name;
  // TLS; "": not given.
  std::string username;
  std::string certificates;  // a folder
  std::string psk_file;
  bool verify_peer = true;
};

// Throws std::invalid_argument with a text for the user.
Uri parse_uri(const std::string& text);

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_URI_H
