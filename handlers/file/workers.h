// SPDX-License-Identifier: MIT
//
// Serves a disk on the runner's worker threads, each command a system call that may block.
#ifndef UBLK_HANDLERS_FILE_WORKERS_H
#define UBLK_HANDLERS_FILE_WORKERS_H

#include <ublk/handler.hpp>

#include "disk.h"

namespace file {

int serve_on_worker(Disk& disk, const ublk::Io& io, Disk::Begin begin);

}  // namespace file

#endif  // UBLK_HANDLERS_FILE_WORKERS_H
