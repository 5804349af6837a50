// SPDX-License-Identifier: MIT
#include "ublk/error.h"

#include <cstring>

namespace ublk {

namespace {

std::string describe(int error, const std::string& step, const std::string& hint) {
  std::string text =
      step + ": " + std::generic_category().message(error) + " (" + errno_name(error) + ')';
  if (!hint.empty()) text += ": " + hint;
  return text;
}

}  // namespace

// The text is shared, so that copying an exception can't throw.
Error::Error(int error, std::string step, const std::string& hint)
    : std::system_error(error, std::generic_category()),
      step_(std::move(step)),
      text_(std::make_shared<const std::string>(describe(error, step_, hint))) {}

const char* Error::what() const noexcept { return text_->c_str(); }

std::string errno_name(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : std::to_string(error);
}

}  // namespace ublk
