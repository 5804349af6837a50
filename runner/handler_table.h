// SPDX-License-Identifier: MIT
//
// The table that a handler exports: brought into this version's layout, and checked.
#ifndef UBLK_RUNNER_HANDLER_TABLE_H
#define UBLK_RUNNER_HANDLER_TABLE_H

#include <ublk/handler.h>

#include <string_view>
#include <vector>

namespace ublk_runner {

// The table of a handler of this or an older version, with its options in `options`, to which the
// copy points. What an older version has no field for is 0. Fields that a newer header appended
// under the same ABI version are left out: they are features that this runner does not know. Throws
// std::invalid_argument if the ABI version is a newer one, or if there is no table to be copied.
ublk_handler copy_handler_table(const ublk_handler* table, std::vector<ublk_option>& options);

// Checks what handler.h says of a table that copy_handler_table made. `name` is that of the file.
// Throws std::invalid_argument.
void check_handler_table(const ublk_handler& handler, std::string_view name);

// Names that no option of a handler can have: the runner's own keys of a device, those that later
// versions may add, and all that begin with "ublk_".
bool is_reserved_option_name(std::string_view name);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_HANDLER_TABLE_H
