// SPDX-License-Identifier: MIT
#include "ublk/driver.h"

#include <fcntl.h>

#include <cerrno>
#include <string>

#include "ublk/abi.h"
#include "ublk/error.h"

namespace ublk {

namespace {

const char* open_hint(int error) {
  switch (error) {
    case ENOENT:
      return "is the kernel module ublk_drv loaded?";
    case EACCES:
    case EPERM:
      return "root (CAP_SYS_ADMIN) is needed";
    case EBUSY:
      return "another process serves this device";
    default:
      return "";
  }
}

UniqueFd open_node(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_RDWR | O_CLOEXEC));
  if (!fd) {
    const int error = errno;
    throw Error(error, "open " + path, open_hint(error));
  }
  return fd;
}

class KernelDriver final : public Driver {
 public:
  KernelDriver() : Driver(false) {}

  UniqueFd open_control() override { return open_node(abi::kControlPath, 0); }

  UniqueFd open_device(uint32_t device_id) override {
    return open_node(abi::kCharDevicePrefix + std::to_string(device_id), O_NONBLOCK);
  }
};

}  // namespace

Driver::~Driver() = default;

Driver& Driver::kernel() {
  static KernelDriver driver;
  return driver;
}

void Driver::redirect(io_uring&, io_uring_sqe&) {}

}  // namespace ublk
