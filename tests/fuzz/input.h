// SPDX-License-Identifier: MIT
// What fuzzers share: their input in pieces, and how they say that something must not be.
#ifndef UBLK_TESTS_FUZZ_INPUT_H
#define UBLK_TESTS_FUZZ_INPUT_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace fuzz {

// Reads the input from its start; at its end, zeroes.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  size_t left() const { return left_; }
  template <class T>
  T take() {
    T value{};
    const size_t bytes = std::min(sizeof(T), left_);
    if (bytes != 0) std::memcpy(&value, data_, bytes);
    skip(bytes);
    return value;
  }
  // At most so many bytes.
  std::string text(size_t bytes) {
    std::string text(reinterpret_cast<const char*>(data_), std::min(bytes, left_));
    skip(text.size());
    return text;
  }
  std::string rest() { return text(left_); }

 private:
  void skip(size_t bytes) {
    data_ += bytes;
    left_ -= bytes;
  }

  const uint8_t* data_;
  size_t left_;
};

// Ends the process with a report, as a crash does.
inline void require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "FUZZER: does not hold: %s\n", what);
  abort();
}

}  // namespace fuzz

#endif  // UBLK_TESTS_FUZZ_INPUT_H
