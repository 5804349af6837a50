// SPDX-License-Identifier: MIT
#include "params_from_geometry.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>
#include <utility>

namespace ublk_runner {

namespace {

namespace abi = ublk::abi;

constexpr uint32_t kPageSize = 4096;
constexpr uint32_t kMaxBlock = 1u << 30;       // of block sizes that the kernel takes as shifts
constexpr uint32_t kDefaultDmaAlignment = 4;   // the kernel's own
constexpr uint32_t kDefaultMaxSegments = 128;  // likewise
constexpr uint32_t kDefaultMaxSegmentSize = 65536;     // likewise
constexpr uint64_t kSegmentBoundaryMask = 0xffffffff;  // likewise; all 64 bits set are refused

[[noreturn]] void refuse(const char* field, uint64_t value, const std::string& expected) {
  throw std::invalid_argument(std::string(field) + " is " + std::to_string(value) + ", expected " +
                              expected);
}

void expect_power_of_two(const char* field, uint32_t value, uint32_t minimum, uint32_t maximum) {
  if (!std::has_single_bit(value) || value < minimum || value > maximum)
    refuse(field, value,
           "a power of two from " + std::to_string(minimum) + " to " + std::to_string(maximum));
}

void expect_multiple(const char* field, uint64_t value, uint32_t unit, const char* unit_name) {
  if (value == 0 || value % unit != 0)
    refuse(field, value,
           "a multiple of the " + std::string(unit_name) + ", " + std::to_string(unit));
}

uint8_t shift(uint32_t power_of_two) {
  return static_cast<uint8_t>(std::countr_zero(power_of_two));
}

uint32_t sectors(uint32_t bytes) { return bytes / abi::kSectorSize; }

uint32_t attributes(const ublk_geometry& geometry, bool read_only) {
  const auto has = [&](uint32_t flag) { return (geometry.flags & flag) != 0; };
  if (has(UBLK_GEOMETRY_FUA) && !has(UBLK_GEOMETRY_FLUSH))
    throw std::invalid_argument("flags have UBLK_GEOMETRY_FUA without UBLK_GEOMETRY_FLUSH");
  return (read_only ? abi::kAttrReadOnly : 0) |
         (has(UBLK_GEOMETRY_ROTATIONAL) ? abi::kAttrRotational : 0) |
         (has(UBLK_GEOMETRY_FLUSH) ? abi::kAttrVolatileCache : 0) |
         (has(UBLK_GEOMETRY_FUA) ? abi::kAttrFua : 0);
}

uint32_t max_io_size(const ublk_geometry& geometry, uint32_t configured) {
  if (geometry.max_io_size == 0) return configured;
  if (geometry.max_io_size < kPageSize)
    refuse("max_io_size", geometry.max_io_size, "at least " + std::to_string(kPageSize));
  return std::min(configured, geometry.max_io_size / kPageSize * kPageSize);
}

abi::ParamBasic basic(const ublk_geometry& geometry, const ParamLimits& limits, bool read_only) {
  const uint32_t logical = geometry.logical_block_size;
  const uint32_t physical = geometry.physical_block_size;
  const uint32_t io_min = geometry.io_min != 0 ? geometry.io_min : physical;
  expect_power_of_two("logical_block_size", logical, abi::kSectorSize, kPageSize);
  expect_power_of_two("physical_block_size", physical, logical, kMaxBlock);
  expect_power_of_two("io_min", io_min, logical, kMaxBlock);
  if (geometry.io_opt != 0) expect_power_of_two("io_opt", geometry.io_opt, logical, kMaxBlock);
  expect_multiple("size", geometry.size, logical, "logical block");
  if (geometry.chunk_size != 0) {
    expect_multiple("chunk_size", geometry.chunk_size, logical, "logical block");
    if (geometry.chunk_size < kPageSize)
      refuse("chunk_size", geometry.chunk_size, "at least " + std::to_string(kPageSize));
  }

  abi::ParamBasic basic{};
  basic.attrs = attributes(geometry, read_only);
  basic.logical_bs_shift = shift(logical);
  basic.physical_bs_shift = shift(physical);
  basic.io_min_shift = shift(io_min);
  basic.io_opt_shift = geometry.io_opt != 0 ? shift(geometry.io_opt) : uint8_t{0};
  basic.max_sectors = sectors(max_io_size(geometry, limits.max_io_size));
  basic.chunk_sectors = sectors(geometry.chunk_size);
  basic.dev_sectors = geometry.size / abi::kSectorSize;
  return basic;
}

// The largest request in sectors, in whole blocks.
uint32_t max_blocks(const char* field, uint32_t bytes, uint32_t logical) {
  if (bytes < logical) refuse(field, bytes, "at least a logical block, " + std::to_string(logical));
  return sectors(bytes / logical * logical);
}

abi::ParamDiscard discard(const ublk_geometry& geometry) {
  const uint32_t logical = geometry.logical_block_size;
  abi::ParamDiscard discard{};
  // The kernel wants a granularity for write-zeroes alone, too.
  discard.discard_granularity =
      geometry.discard_granularity != 0 ? geometry.discard_granularity : logical;
  expect_multiple("discard_granularity", discard.discard_granularity, logical, "logical block");
  if ((geometry.flags & UBLK_GEOMETRY_DISCARD) != 0) {
    if (geometry.discard_alignment != 0)
      expect_multiple("discard_alignment", geometry.discard_alignment, logical, "logical block");
    discard.discard_alignment = geometry.discard_alignment;
    discard.max_discard_sectors =
        max_blocks("max_discard_size", geometry.max_discard_size, logical);
    discard.max_discard_segments = 1;
  }
  if ((geometry.flags & UBLK_GEOMETRY_WRITE_ZEROES) != 0)
    discard.max_write_zeroes_sectors =
        max_blocks("max_write_zeroes_size", geometry.max_write_zeroes_size, logical);
  return discard;
}

// Of the largest request, whose memory may be scattered page by page and begin inside of one: fewer
// would split it.
uint32_t most_segments(const abi::ParamBasic& basic) {
  return basic.max_sectors / sectors(kPageSize) + 1;
}

abi::ParamSegment segment(const ublk_geometry& geometry, const abi::ParamBasic& basic) {
  if (geometry.max_segments > UINT16_MAX)
    refuse("max_segments", geometry.max_segments, "at most " + std::to_string(UINT16_MAX));
  if (geometry.max_segment_size != 0 && geometry.max_segment_size < kPageSize)
    refuse("max_segment_size", geometry.max_segment_size, "at least " + std::to_string(kPageSize));
  abi::ParamSegment segment{};
  segment.seg_boundary_mask = kSegmentBoundaryMask;
  segment.max_segment_size =
      geometry.max_segment_size != 0 ? geometry.max_segment_size : kDefaultMaxSegmentSize;
  segment.max_segments = static_cast<uint16_t>(
      geometry.max_segments != 0 ? geometry.max_segments
                                 : std::max(most_segments(basic), kDefaultMaxSegments));
  return segment;
}

bool is_multiple(uint32_t value, uint32_t of) { return of == 0 || value % of == 0; }

}  // namespace

abi::Params params_from_geometry(const ublk_geometry& geometry, const ParamLimits& limits) {
  const bool read_only = limits.read_only || (geometry.flags & UBLK_GEOMETRY_READ_ONLY) != 0;
  abi::Params params{};
  params.len = sizeof(params);
  params.types = abi::kParamBasic;
  params.basic = basic(geometry, limits, read_only);

  if (!read_only && (geometry.flags & (UBLK_GEOMETRY_DISCARD | UBLK_GEOMETRY_WRITE_ZEROES)) != 0) {
    params.types |= abi::kParamDiscard;
    params.discard = discard(geometry);
  }
  expect_power_of_two("dma_alignment", geometry.dma_alignment, 1, kPageSize);
  if (geometry.dma_alignment > kDefaultDmaAlignment) {
    params.types |= abi::kParamDmaAlign;
    params.dma.alignment = geometry.dma_alignment - 1;
  }
  // Kernels before 6.15 drop it.
  if (geometry.max_segments != 0 || geometry.max_segment_size != 0 ||
      most_segments(params.basic) > kDefaultMaxSegments) {
    params.types |= abi::kParamSegment;
    params.seg = segment(geometry, params.basic);
  }
  return params;
}

std::string params_shortcoming(const abi::Params& device, const abi::Params& offered) {
  std::string shortcoming;
  const auto expect = [&shortcoming](const char* what, bool holds) {
    if (!holds) shortcoming += (shortcoming.empty() ? "" : ", ") + std::string(what);
  };
  const uint32_t attrs = device.basic.attrs ^ offered.basic.attrs;
  expect("read-only", (attrs & abi::kAttrReadOnly) == 0);
  // Without flushes from the kernel a cache of the handler's would be lost, too.
  expect("flush and FUA", (attrs & (abi::kAttrVolatileCache | abi::kAttrFua)) == 0);
  expect("block sizes", device.basic.logical_bs_shift == offered.basic.logical_bs_shift);
  expect("the largest I/O", device.basic.max_sectors <= offered.basic.max_sectors);
  expect("the chunk size", device.basic.chunk_sectors == offered.basic.chunk_sectors);
  const abi::ParamDiscard& discard = device.discard;
  const abi::ParamDiscard& most = offered.discard;
  expect("discard and write-zeroes",
         discard.max_discard_sectors <= most.max_discard_sectors &&
             discard.max_write_zeroes_sectors <= most.max_write_zeroes_sectors &&
             (discard.max_discard_sectors == 0 ||
              (is_multiple(discard.discard_granularity, most.discard_granularity) &&
               discard.discard_alignment == most.discard_alignment)));
  expect("the DMA alignment", device.dma.alignment >= offered.dma.alignment);
  // A kernel that does not know the limits has dropped them; a handler may have none.
  const bool both = (device.types & offered.types & abi::kParamSegment) != 0;
  expect("segment limits", !both || (device.seg.max_segments <= offered.seg.max_segments &&
                                     device.seg.max_segment_size <= offered.seg.max_segment_size));
  return shortcoming;
}

RequestRules rules_from_params(const abi::Params& params) {
  const bool read_only = (params.basic.attrs & abi::kAttrReadOnly) != 0;
  RequestRules rules;
  rules.sectors = params.basic.dev_sectors;
  rules.block_sectors = (1u << params.basic.logical_bs_shift) / abi::kSectorSize;
  rules.max_sectors = params.basic.max_sectors;
  rules.read_only = read_only;
  rules.operations = 1u << UBLK_OP_READ;
  if (!read_only) rules.operations |= 1u << UBLK_OP_WRITE;
  if ((params.basic.attrs & abi::kAttrVolatileCache) != 0) rules.operations |= 1u << UBLK_OP_FLUSH;
  if (params.discard.max_discard_sectors != 0) rules.operations |= 1u << UBLK_OP_DISCARD;
  if (params.discard.max_write_zeroes_sectors != 0) rules.operations |= 1u << UBLK_OP_WRITE_ZEROES;
  return rules;
}

}  // namespace ublk_runner
