// SPDX-License-Identifier: MIT
//
// A handler's library, and its options as the runner gives them.
#ifndef UBLK_TESTS_SUPPORT_LOADED_HANDLER_H
#define UBLK_TESTS_SUPPORT_LOADED_HANDLER_H

#include <ublk/handler.h>

#include <map>
#include <string>
#include <vector>

namespace test {

using Options = std::map<std::string, std::string>;

// A handler_NAME.so of the build, or of the folder in $UBLK_TEST_HANDLER_DIR. Throws
// std::runtime_error if it can't be loaded or its table is malformed.
class LoadedHandler {
 public:
  explicit LoadedHandler(const std::string& name);
  ~LoadedHandler();
  LoadedHandler(const LoadedHandler&) = delete;
  LoadedHandler& operator=(const LoadedHandler&) = delete;

  const ublk_handler& table() const { return *table_; }
  static std::string path(const std::string& name);

 private:
  void* library_;
  const ublk_handler* table_;
};

// The values of all options that the handler has, in its order; the texts stay the caller's.
// Throws std::invalid_argument.
std::vector<ublk_option_value> parse_options(const ublk_handler& handler, const Options& options);

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_LOADED_HANDLER_H
