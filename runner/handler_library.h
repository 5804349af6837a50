// SPDX-License-Identifier: MIT
//
// Loads handlers. "handler = foo" is the file handler_foo.so in the handler directory, and nothing
// else: no search path, no alias.
#ifndef UBLK_RUNNER_HANDLER_LIBRARY_H
#define UBLK_RUNNER_HANDLER_LIBRARY_H

#include <ublk/handler.h>

#include <memory>
#include <string>
#include <system_error>
#include <vector>

namespace ublk_runner {

// The names of the handlers in `dir`, in order. Loads none. `error`: it can't be read.
std::vector<std::string> handler_names(const std::string& dir, std::error_code& error);

// One loaded handler. The library stays loaded as long as anyone holds the object, so who may still
// call into it does. Immutable, so any thread may use it.
class HandlerLibrary {
 public:
  // May block: it reads files and runs the library's constructors. Any thread. Throws
  // std::runtime_error, which begins with the path and says what is wrong with it: no such file,
  // what the dynamic linker says, no entry symbol, a newer ABI, or a table that handler.h forbids.
  static std::shared_ptr<HandlerLibrary> load(const std::string& dir, const std::string& name);

  ~HandlerLibrary();
  HandlerLibrary(const HandlerLibrary&) = delete;
  HandlerLibrary& operator=(const HandlerLibrary&) = delete;

  // A copy of the handler's table in this version's layout: fields that an older handler does not
  // have are 0, also in each of its options. Required callbacks are there, name and summary are not
  // NULL, nor is any option's help; the options' names, types, ranges and defaults are sound.
  const ublk_handler& handler() const { return handler_; }
  const std::string& path() const { return path_; }

 private:
  HandlerLibrary(std::string path, void* library);

  const std::string path_;
  void* const library_;
  ublk_handler handler_{};
  std::vector<ublk_option> options_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_HANDLER_LIBRARY_H
