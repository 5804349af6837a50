// SPDX-License-Identifier: MIT
#include "device_limits.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

namespace fake {

namespace abi = ublk::abi;

namespace {

constexpr uint64_t kAlwaysSet = abi::kFlagCompInTask | abi::kFlagCmdIoctlEncode |
                                abi::kFlagPerIoDaemon | abi::kFlagBufRegOffDaemon |
                                abi::kFlagSafeStopDev;

uint32_t known_params(uint64_t features) {
  uint32_t known = abi::kParamBasic | abi::kParamDiscard | abi::kParamDevt | abi::kParamZoned;
  if ((features & abi::kFlagSupportZeroCopy) != 0)  // Linux 6.15
    known |= abi::kParamDmaAlign | abi::kParamSegment;
  if ((features & abi::kFlagBatchIo) != 0) known |= abi::kParamIntegrity;  // Linux 7.0
  return known;
}

uint32_t page_size() {
  static const auto size = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  return size;
}

bool recovery_flags_make_sense(uint64_t flags) {
  const bool recovery = (flags & abi::kFlagUserRecovery) != 0;
  const bool reissue = (flags & abi::kFlagUserRecoveryReissue) != 0;
  const bool fail_io = (flags & abi::kFlagUserRecoveryFailIo) != 0;
  const bool quiesce = (flags & abi::kFlagQuiesce) != 0;
  return recovery ? !(reissue && fail_io) : !reissue && !fail_io && !quiesce;
}

bool good_basic(const abi::ParamBasic& basic, const abi::DevInfo& info) {
  const auto page_shift = static_cast<unsigned>(std::countr_zero(page_size()));
  return basic.logical_bs_shift >= 9 && basic.logical_bs_shift <= page_shift &&
         basic.logical_bs_shift <= basic.physical_bs_shift &&
         basic.max_sectors >= page_size() / abi::kSectorSize &&
         basic.max_sectors <= info.max_io_buf_bytes / abi::kSectorSize;
}

bool good_discard(const abi::ParamDiscard& discard) {
  if (discard.discard_granularity == 0) return false;
  return discard.max_discard_sectors == 0 || discard.max_discard_segments == 1;
}

bool good_dma_align(const abi::ParamDmaAlign& dma) {
  return dma.alignment < page_size() && std::has_single_bit(dma.alignment + 1);
}

bool good_segment(const abi::ParamSegment& segment) {
  constexpr uint32_t kSmallest = 4096;
  return segment.seg_boundary_mask + 1 >= kSmallest &&
         std::has_single_bit(segment.seg_boundary_mask + 1) &&
         segment.max_segment_size >= kSmallest;
}

}  // namespace

int settle_info(abi::DevInfo& info, uint64_t features, unsigned cpus) {
  if (info.queue_depth == 0 || info.queue_depth > abi::kMaxQueueDepth) return -EINVAL;
  if (info.nr_hw_queues == 0 || info.nr_hw_queues > abi::kMaxQueues) return -EINVAL;
  info.flags &= features & ~abi::kFlagUnprivilegedDev;
  // Linux 6.13 brought the flag and the check.
  if ((features & abi::kFlagUserRecoveryFailIo) != 0 && !recovery_flags_make_sense(info.flags))
    return -EINVAL;
  info.flags |= kAlwaysSet & features;
  if ((info.flags & abi::kFlagBatchIo) != 0) {
    if (info.queue_depth < 2) return -EINVAL;
    info.flags &= ~(abi::kFlagPerIoDaemon | abi::kFlagNeedGetData);
  }
  if ((info.flags & (abi::kFlagUserCopy | abi::kFlagAutoBufReg | abi::kFlagSupportZeroCopy)) != 0)
    info.flags &= ~abi::kFlagNeedGetData;
  info.nr_hw_queues = static_cast<uint16_t>(std::min<unsigned>(info.nr_hw_queues, cpus));
  info.max_io_buf_bytes = info.max_io_buf_bytes / page_size() * page_size();
  info.state = static_cast<uint16_t>(abi::DeviceState::kDead);
  info.ublksrv_pid = -1;
  info.owner_uid = getuid();
  info.owner_gid = getgid();
  return 0;
}

int settle_params(abi::Params& params, const abi::DevInfo& info, uint64_t features) {
  const auto has = [&params](uint32_t type) { return (params.types & type) != 0; };
  if (params.len == 0 || params.types == 0) return -EINVAL;
  params.types &= known_params(features);
  if (!has(abi::kParamBasic) || !good_basic(params.basic, info)) return -EINVAL;
  if (has(abi::kParamDiscard) && !good_discard(params.discard)) return -EINVAL;
  // Zones and integrity data need flags that no device of the fake has.
  if (has(abi::kParamDevt | abi::kParamZoned | abi::kParamIntegrity)) return -EINVAL;
  if (has(abi::kParamDmaAlign) && !good_dma_align(params.dma)) return -EINVAL;
  if (has(abi::kParamSegment) && !good_segment(params.seg)) return -EINVAL;
  return 0;
}

}  // namespace fake
