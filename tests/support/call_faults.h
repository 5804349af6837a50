// SPDX-License-Identifier: MIT
// System calls that the kernel refuses: those by which rings and mappings are made. In place of the
// C library's mmap() and eventfd(), and liburing's io_uring_queue_init() and io_uring_register(),
// for the program and its libraries.
#ifndef UBLK_TESTS_SUPPORT_CALL_FAULTS_H
#define UBLK_TESTS_SUPPORT_CALL_FAULTS_H

#include <string>

namespace test {

// From its making to its end the nth of these calls fails with `error`, whoever makes it. One at a
// time. Shared mappings that can be written to are not counted: the in-process driver's own.
class CallFault {
 public:
  CallFault(unsigned nth, int error);
  ~CallFault();
  CallFault(const CallFault&) = delete;
  CallFault& operator=(const CallFault&) = delete;

  // The call that has failed; empty: there were fewer.
  std::string failed() const;
};

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_CALL_FAULTS_H
