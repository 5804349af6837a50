// SPDX-License-Identifier: MIT
// How the kernel schedules threads that pass requests on to each other.
#ifndef UBLK_RUNNER_BATCH_SCHEDULING_H
#define UBLK_RUNNER_BATCH_SCHEDULING_H

#include <sched.h>

namespace ublk_runner {

// From now on the calling thread, when it is woken, takes an idle CPU at once but not the CPU of a
// thread that runs, unless that one's policy is SCHED_IDLE: it waits for its turn there, and what
// it is woken for gathers meanwhile (SCHED_BATCH, sched(7)). A policy that somebody has chosen is
// left alone, and so is the nice value. Threads that this one makes inherit it, io-wq's too.
inline void schedule_as_batch() {
  const sched_param unused{};
  // Refused, by a filter of system calls, it costs speed only.
  if (sched_getscheduler(0) == SCHED_OTHER) sched_setscheduler(0, SCHED_BATCH, &unused);
}

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_BATCH_SCHEDULING_H
