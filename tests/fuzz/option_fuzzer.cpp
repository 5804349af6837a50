// SPDX-License-Identifier: MIT
// Values of options. The first byte chooses the type; an accepted value keeps to the option's
// rules.
#include <option_value.h>

#include <stdexcept>

#include "input.h"

using namespace ublk_runner;

namespace {

constexpr uint64_t kMinimum = 4096;
constexpr uint64_t kMaximum = uint64_t{1} << 50;

constexpr ublk_option option_of(uint32_t type) {
  return {.name = "option",
          .type = type,
          .flags = 0,
          .default_value = nullptr,
          .minimum = kMinimum,
          .maximum = kMaximum,
          .choices = "one|two|three",
          .help = "For fuzzing."};
}

void check_value(const ublk_option& option, const std::string& text) {
  const ublk_option_value value = parse_option_value(option, text);
  fuzz::require(value.is_set == 1, "what is parsed is set");
  switch (option.type) {
    case UBLK_OPTION_STRING:
      fuzz::require(!text.empty(), "a string is not empty");
      break;
    case UBLK_OPTION_PATH:
      fuzz::require(text.starts_with('/'), "a path is absolute");
      break;
    case UBLK_OPTION_BOOL:
      fuzz::require(value.boolean <= 1, "a bool is 0 or 1");
      break;
    case UBLK_OPTION_CHOICE:
      fuzz::require(text == choice_words(option).at(value.number), "a choice is its word");
      break;
    default:
      fuzz::require(value.number >= kMinimum && value.number <= kMaximum, "in range");
      break;
  }
  if (option.type == UBLK_OPTION_SIZE)
    fuzz::require(parse_option_value(option, format_size(value.number)).number == value.number,
                  "a size in words is the same size");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const ublk_option option = option_of(UBLK_OPTION_STRING + input.take<uint8_t>() % 6);
  const std::string text = input.rest();
  nearest_name(text, choice_words(option));
  try {
    check_value(option, text);
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
