// SPDX-License-Identifier: MIT
//
// Whether a server on a unix socket of this machine is still at work for clients that are gone, or
// for this one. Throws std::system_error if the kernel does not tell.
#ifndef UBLK_HANDLERS_NBD_UNIX_ORPHANS_H
#define UBLK_HANDLERS_NBD_UNIX_ORPHANS_H

namespace nbd {

// Whether a connection to the server that `client` is connected to has lost its client, but has not
// been closed by the server: it may still find requests there. Throws std::runtime_error if the
// server is in another network namespace, where its connections can't be seen.
bool has_orphans(int client);

// Whether the server still has its end of that connection, be it shut down or not.
bool has_open_peer(int client);

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_UNIX_ORPHANS_H
