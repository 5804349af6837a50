// SPDX-License-Identifier: MIT
//
// The addresses of a server's host. libnbd would resolve the name, too, but never leaves an address
// that is silent.
#ifndef UBLK_HANDLERS_NBD_ADDRESSES_H
#define UBLK_HANDLERS_NBD_ADDRESSES_H

#include <string>
#include <vector>

#include "uri.h"

namespace nbd {

// Of a URI of TCP, as numbers, in the order in which they are to be tried; one at least. Blocks if
// the host is a name. Throws std::system_error.
std::vector<std::string> addresses_of(const Uri& uri);

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_ADDRESSES_H
