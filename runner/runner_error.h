// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_RUNNER_ERROR_H
#define UBLK_RUNNER_RUNNER_ERROR_H

#include <stdexcept>
#include <string>

namespace ublk_runner {

// Why an operation is refused, for callers that act on it. What else may go wrong with operations
// is a std::runtime_error of another kind.
class RunnerError : public std::runtime_error {
 public:
  enum class Kind { kNotFound, kExists, kInUse, kStarting, kStopping };

  RunnerError(Kind kind, const std::string& text) : std::runtime_error(text), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_RUNNER_ERROR_H
