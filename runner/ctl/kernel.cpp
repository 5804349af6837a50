// SPDX-License-Identifier: MIT
#include "ctl/kernel.h"

#include <sys/utsname.h>
#include <ublk/abi.h>
#include <ublk/control.h>

#include <cerrno>
#include <cstdio>

#include "ctl/command.h"

namespace ublk_ctl {

namespace {

namespace abi = ublk::abi;

constexpr Feature kFeatures[] = {
    {abi::kFlagSupportZeroCopy, "SUPPORT_ZERO_COPY", "6.15",
     "zero_copy: requests' memory in the ring, by two commands for each"},
    {abi::kFlagCompInTask, "URING_CMD_COMP_IN_TASK", "6.0", "how requests are handed over"},
    {abi::kFlagNeedGetData, "NEED_GET_DATA", "6.0",
     "buffer = get-data: memory for the requests in flight alone"},
    {abi::kFlagUserRecovery, "USER_RECOVERY", "6.1", "devices outlive their runner"},
    {abi::kFlagUserRecoveryReissue, "USER_RECOVERY_REISSUE", "6.1",
     "recovery = reissue: I/O waits for the next runner"},
    {abi::kFlagUnprivilegedDev, "UNPRIVILEGED_DEV", "6.3", "devices of other users (not used)"},
    {abi::kFlagCmdIoctlEncode, "CMD_IOCTL_ENCODE", "6.4", "how commands are numbered"},
    {abi::kFlagUserCopy, "USER_COPY", "6.5",
     "buffer = user-copy: handlers move the data themselves"},
    {abi::kFlagZoned, "ZONED", "6.6", "zoned devices (not used)"},
    {abi::kFlagUserRecoveryFailIo, "USER_RECOVERY_FAIL_IO", "6.13",
     "recovery = fail-io: I/O fails until there is a runner again"},
    {abi::kFlagUpdateSize, "UPDATE_SIZE", "6.16", "resize while the device is used"},
    {abi::kFlagAutoBufReg, "AUTO_BUF_REG", "6.16", "zero_copy without these commands"},
    {abi::kFlagQuiesce, "QUIESCE", "6.16", "a server can be replaced while it lives (not used)"},
    {abi::kFlagPerIoDaemon, "PER_IO_DAEMON", "6.16", "threads can share a queue (not used)"},
    {abi::kFlagBufRegOffDaemon, "BUF_REG_OFF_DAEMON", "6.17",
     "buffers can be registered by any thread (not used)"},
    {abi::kFlagBatchIo, "BATCH_IO", "7.0", "batch_io: requests many at a time"},
    {abi::kFlagIntegrity, "INTEGRITY", "7.0", "integrity data beside the blocks (not used)"},
    {abi::kFlagSafeStopDev, "SAFE_STOP_DEV", "7.0",
     "the kernel itself keeps devices that are open from being stopped"},
    {abi::kFlagNoAutoPartScan, "NO_AUTO_PART_SCAN", "7.0",
     "devices without a look for partitions (not used)"},
    {abi::kFlagShmemZeroCopy, "SHMEM_ZC", "7.1", "zero copy by shared memory (not used)"},
    {abi::kFlagIoDescSize, "IO_DESC_SIZE", "7.3", "larger descriptors of requests (not used)"},
};

}  // namespace

KernelVersion parse_kernel_version(const std::string& release) {
  KernelVersion version;
  if (sscanf(release.c_str(), "%u.%u", &version.major, &version.minor) != 2) return {};
  return version;
}

std::string kernel_release() {
  utsname name{};
  uname(&name);
  return name.release;
}

std::span<const Feature> features() { return kFeatures; }

uint64_t ask_features() {
  try {
    return ublk::Control().features();
  } catch (const ublk::Error& e) {
    const bool permission = e.error() == EACCES || e.error() == EPERM;
    throw CommandError(permission ? kExitNotPermitted : kExitFailed, e.what());
  }
}

}  // namespace ublk_ctl
