// SPDX-License-Identifier: MIT
#ifndef UBLK_HANDLERS_FILE_PERFORM_H
#define UBLK_HANDLERS_FILE_PERFORM_H

struct io_uring_sqe;

namespace file {

// Does what an SQE asks for by a system call that blocks, and returns what its CQE would hold: so
// requests on workers take the same steps as those on the ring. Knows what this handler uses: READ,
// WRITE, FSYNC, FALLOCATE and a block device's discard; -EINVAL for others. Any thread.
int perform(const io_uring_sqe& sqe);

}  // namespace file

#endif  // UBLK_HANDLERS_FILE_PERFORM_H
