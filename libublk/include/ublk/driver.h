// SPDX-License-Identifier: MIT
//
// The one seam between libublk and the kernel's ublk driver. Programs use Driver::kernel();
// a test puts an in-process driver in its place and then runs the same library, runner and handlers
// without root and without the kernel module.
#ifndef UBLK_DRIVER_H
#define UBLK_DRIVER_H

#include <cstdint>

#include "ublk/export.h"
#include "ublk/unique_fd.h"

struct io_uring;
struct io_uring_sqe;

namespace ublk {

// Any thread may call any of these.
class UBLK_EXPORT Driver {
 public:
  virtual ~Driver();

  // The running kernel's driver. Holds no state.
  static Driver& kernel();

  // Opens /dev/ublk-control (read-write, close-on-exec). Throws Error; ENOENT: no ublk_drv module.
  virtual UniqueFd open_control() = 0;

  // Opens /dev/ublkcN (read-write, close-on-exec, non-blocking: else io_uring punts user copy to
  // worker threads). Throws Error; EBUSY: somebody has it open. The descriptor takes mmap, pread
  // and pwrite at the offsets of ublk/abi.h.
  virtual UniqueFd open_device(uint32_t device_id) = 0;

  // True if redirect() must see each command of this driver.
  bool redirects() const noexcept { return redirects_; }

  // Called for each IORING_OP_URING_CMD that the library has filled in, before it is submitted on
  // `ring`; may rewrite it, so that the answer comes from somewhere else. The CQE must bring the
  // same user_data. Only called if redirects(). The address in a FETCH_IO_CMDS is that of the ring
  // of provided buffers (io_uring_buf_ring).
  virtual void redirect(io_uring& ring, io_uring_sqe& sqe);

 protected:
  explicit Driver(bool redirects) : redirects_(redirects) {}
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

 private:
  const bool redirects_;
};

}  // namespace ublk

#endif  // UBLK_DRIVER_H
