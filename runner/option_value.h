// SPDX-License-Identifier: MIT
//
// The text of one option, checked and converted. The runner's own keys and the options of all
// handlers follow the rules that are here.
#ifndef UBLK_RUNNER_OPTION_VALUE_H
#define UBLK_RUNNER_OPTION_VALUE_H

#include <ublk/handler.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ublk_runner {

// Returns the value; its `text` is the given one, which must live as long. Throws
// std::invalid_argument that says what was expected, and what was there unless the option is
// secret.
//
//   STRING   any text but the empty one
//   PATH     begins with '/'
//   BOOL     true yes on 1, false no off 0, in lower case
//   INTEGER  decimal digits
//   SIZE     decimal digits, then nothing (bytes) or one of K M G T P (powers of 1024); no space,
//   no
//            fraction, no "KiB" or "kB", which people take for different things
//   CHOICE   one of the words
ublk_option_value parse_option_value(const ublk_option& option, const std::string& text);

// "512K" for 524288: the shortest text that parse_option_value reads as that size.
std::string format_size(uint64_t bytes);

// The words of a CHOICE.
std::vector<std::string_view> choice_words(const ublk_option& option);

// The one of `names` that `name` was probably meant to be; empty if none is close.
std::string_view nearest_name(std::string_view name, const std::vector<std::string_view>& names);

// "a, b or c"
std::string join_words(const std::vector<std::string_view>& words);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_OPTION_VALUE_H
