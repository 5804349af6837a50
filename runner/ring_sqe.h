// SPDX-License-Identifier: MIT
#ifndef UBLK_RUNNER_RING_SQE_H
#define UBLK_RUNNER_RING_SQE_H

#include <ublk/ring.h>

#include <cstring>

namespace ublk_runner {

// An empty SQE, always. The kernel takes none only while it has no memory for a request, which
// passes; there is nothing else that a queue thread could do until then.
inline io_uring_sqe& get_sqe(ublk::Ring& ring) {
  io_uring_sqe* sqe = ring.get_sqe();
  while (sqe == nullptr) [[unlikely]] sqe = ring.get_sqe();
  std::memset(sqe, 0, sizeof(*sqe));
  return *sqe;
}

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_RING_SQE_H
