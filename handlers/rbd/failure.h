// SPDX-License-Identifier: MIT
//
// The errors of librados and librbd, which are -errno.
#ifndef UBLK_HANDLERS_RBD_FAILURE_H
#define UBLK_HANDLERS_RBD_FAILURE_H

#include <string>
#include <system_error>

namespace rbd {

// `error` may be negative. The text ends with the errno's.
[[noreturn]] inline void fail(int error, const std::string& what) {
  throw std::system_error(error < 0 ? -error : error, std::generic_category(), what);
}

inline std::string error_text(int error) {
  return std::generic_category().message(error < 0 ? -error : error);
}

}  // namespace rbd

#endif  // UBLK_HANDLERS_RBD_FAILURE_H
