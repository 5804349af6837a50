// SPDX-License-Identifier: MIT
// What the kernel's driver makes of a device's description: refuse, clear, clamp.
#ifndef UBLK_TESTS_FAKE_DEVICE_LIMITS_H
#define UBLK_TESTS_FAKE_DEVICE_LIMITS_H

#include <ublk/abi.h>

#include <cstdint>

namespace fake {

// What GET_FEATURES of some kernels says.
inline constexpr uint64_t kLinux6_12 = 0x1fe;
inline constexpr uint64_t kLinux6_15 = 0x3ff;
inline constexpr uint64_t kLinux7_2 = 0xfffff;

// Of those, what the fake can play; of kFlagAutoBufReg the fallback alone.
inline constexpr uint64_t kPlayed =
    ublk::abi::kFlagSupportZeroCopy | ublk::abi::kFlagCompInTask | ublk::abi::kFlagNeedGetData |
    ublk::abi::kFlagUserRecovery | ublk::abi::kFlagUserRecoveryReissue |
    ublk::abi::kFlagUnprivilegedDev | ublk::abi::kFlagCmdIoctlEncode | ublk::abi::kFlagUserCopy |
    ublk::abi::kFlagUserRecoveryFailIo | ublk::abi::kFlagAutoBufReg | ublk::abi::kFlagUpdateSize |
    ublk::abi::kFlagQuiesce | ublk::abi::kFlagPerIoDaemon | ublk::abi::kFlagBufRegOffDaemon |
    ublk::abi::kFlagBatchIo | ublk::abi::kFlagSafeStopDev | ublk::abi::kFlagNoAutoPartScan;

// ADD_DEV: turns what is asked for into what is given. Returns 0 or -errno. `info.dev_id` is not
// looked at.
int settle_info(ublk::abi::DevInfo& info, uint64_t features, unsigned cpus);

// SET_PARAMS, for a device with `info`; drops types that the kernel with these features does not
// know. Returns 0 or -errno.
int settle_params(ublk::abi::Params& params, const ublk::abi::DevInfo& info, uint64_t features);

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_DEVICE_LIMITS_H
