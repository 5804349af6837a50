// SPDX-License-Identifier: MIT
//
// The lock that keeps a file from being served twice.
//
// It is a flock, since that belongs to the open file and not to the process: a write that a killed
// process left to io_uring keeps the file open, and so the lock held, until the write has ended.
// Who gets the lock can be sure that nothing of the last holder is still to come. (A POSIX record
// lock would be free as soon as the process is gone.)
#ifndef UBLK_HANDLERS_FILE_FILE_LOCK_H
#define UBLK_HANDLERS_FILE_FILE_LOCK_H

#include <string>

namespace file {

// Locks the open file, shared with other readers or exclusively. False: another open file has it,
// maybe one of this very process. Throws std::system_error if the file can't be locked at all.
bool try_lock(int fd, bool exclusive);

// Who has the lock, for a message: "process 123", or "another process" if the kernel doesn't tell.
std::string lock_holder(int fd);

}  // namespace file

#endif  // UBLK_HANDLERS_FILE_FILE_LOCK_H
