// SPDX-License-Identifier: MIT
//
// Who serves a queue whose handler is not open: nobody. A queue with it is held, or refuses its
// requests; what reaches it all the same fails.
#ifndef UBLK_RUNNER_ABSENT_HANDLER_H
#define UBLK_RUNNER_ABSENT_HANDLER_H

#include <ublk/handler.h>

#include <cerrno>

namespace ublk_runner {

inline const ublk_handler& absent_handler() {
  static constexpr ublk_handler kAbsent = [] {
    ublk_handler table{};
    table.abi_version = UBLK_HANDLER_ABI_VERSION;
    table.struct_size = sizeof(table);
    table.name = "absent";
    table.summary = "";
    table.model = UBLK_MODEL_INLINE;
    table.submit = [](void*, ublk_queue*, ublk_request*) { return -EIO; };
    return table;
  }();
  return kAbsent;
}

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_ABSENT_HANDLER_H
