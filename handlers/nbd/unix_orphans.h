// SPDX-License-Identifier: MIT
//
// Whether a server on a unix socket of this machine is still at work for clients that are gone.
#ifndef UBLK_HANDLERS_NBD_UNIX_ORPHANS_H
#define UBLK_HANDLERS_NBD_UNIX_ORPHANS_H

#include <string>

namespace nbd {

// Whether a connection to the socket of that path has lost its client, but has not been closed by
// the server: it may still find requests there. Sees the servers in this network namespace. Throws
// std::system_error if the kernel does not tell.
bool has_orphans(const std::string& path);

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_UNIX_ORPHANS_H
