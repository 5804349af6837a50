// SPDX-License-Identifier: MIT
// What the kernel is told of a device follows from its geometry, and bad geometry is refused by
// name.
#include "params_from_geometry.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

namespace ublk_runner {
namespace {

namespace abi = ublk::abi;

constexpr ParamLimits kLimits = {.read_only = false, .max_io_size = 256 << 10};

// As a handler finds it, plus the size.
ublk_geometry geometry() {
  ublk_geometry geometry{};
  geometry.struct_size = sizeof(geometry);
  geometry.size = 1 << 20;
  geometry.logical_block_size = 512;
  geometry.physical_block_size = 4096;
  geometry.dma_alignment = 4;
  geometry.max_discard_size = 1u << 30;
  geometry.max_write_zeroes_size = 1u << 30;
  return geometry;
}

void expect_refused(const ublk_geometry& bad, const std::string& text) {
  try {
    params_from_geometry(bad, kLimits);
    ADD_FAILURE() << "accepted; expected: " << text;
  } catch (const std::invalid_argument& e) {
    EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
  }
}

TEST(ParamsFromGeometry, PlainDevice) {
  const abi::Params params = params_from_geometry(geometry(), kLimits);
  EXPECT_EQ(params.len, sizeof(params));
  EXPECT_EQ(params.types, abi::kParamBasic);
  EXPECT_EQ(params.basic.attrs, 0u);
  EXPECT_EQ(params.basic.dev_sectors, 2048u);
  EXPECT_EQ(params.basic.logical_bs_shift, 9);
  EXPECT_EQ(params.basic.physical_bs_shift, 12);
  EXPECT_EQ(params.basic.io_min_shift, 12) << "the physical block is its default";
  EXPECT_EQ(params.basic.max_sectors, 512u);
}

TEST(ParamsFromGeometry, AttributesFollowTheFlags) {
  ublk_geometry g = geometry();
  g.flags = UBLK_GEOMETRY_ROTATIONAL | UBLK_GEOMETRY_FLUSH | UBLK_GEOMETRY_FUA;
  EXPECT_EQ(params_from_geometry(g, kLimits).basic.attrs,
            abi::kAttrRotational | abi::kAttrVolatileCache | abi::kAttrFua);
  g.flags = UBLK_GEOMETRY_READ_ONLY;
  EXPECT_EQ(params_from_geometry(g, kLimits).basic.attrs, abi::kAttrReadOnly);
  g.flags = 0;
  EXPECT_EQ(params_from_geometry(g, {.read_only = true, .max_io_size = 4096}).basic.attrs,
            abi::kAttrReadOnly);
}

TEST(ParamsFromGeometry, TheSmallerMaximumWins) {
  ublk_geometry g = geometry();
  g.max_io_size = 70000;
  EXPECT_EQ(params_from_geometry(g, kLimits).basic.max_sectors, 69632u / 512) << "whole pages";
  g.max_io_size = 4 << 20;
  EXPECT_EQ(params_from_geometry(g, kLimits).basic.max_sectors, 512u);
}

TEST(ParamsFromGeometry, Discard) {
  ublk_geometry g = geometry();
  g.flags = UBLK_GEOMETRY_DISCARD;
  g.discard_granularity = 65536;
  g.discard_alignment = 4096;
  g.max_discard_size = 1 << 20;
  const abi::Params params = params_from_geometry(g, kLimits);
  EXPECT_EQ(params.types, abi::kParamBasic | abi::kParamDiscard);
  EXPECT_EQ(params.discard.discard_granularity, 65536u);
  EXPECT_EQ(params.discard.discard_alignment, 4096u);
  EXPECT_EQ(params.discard.max_discard_sectors, 2048u);
  EXPECT_EQ(params.discard.max_discard_segments, 1);
  EXPECT_EQ(params.discard.max_write_zeroes_sectors, 0u);
}

TEST(ParamsFromGeometry, WriteZeroesAloneHasAGranularity) {
  ublk_geometry g = geometry();
  g.flags = UBLK_GEOMETRY_WRITE_ZEROES;
  const abi::Params params = params_from_geometry(g, kLimits);
  EXPECT_EQ(params.types, abi::kParamBasic | abi::kParamDiscard);
  EXPECT_EQ(params.discard.discard_granularity, 512u);
  EXPECT_EQ(params.discard.max_discard_sectors, 0u);
  EXPECT_EQ(params.discard.max_discard_segments, 0);
  EXPECT_EQ(params.discard.max_write_zeroes_sectors, (1u << 30) / 512);
}

TEST(ParamsFromGeometry, ReadOnlyDevicesDoNotDiscard) {
  ublk_geometry g = geometry();
  g.flags = UBLK_GEOMETRY_READ_ONLY | UBLK_GEOMETRY_DISCARD | UBLK_GEOMETRY_WRITE_ZEROES;
  EXPECT_EQ(params_from_geometry(g, kLimits).types, abi::kParamBasic);
}

TEST(ParamsFromGeometry, AlignmentAndSegmentsOnlyIfAskedFor) {
  ublk_geometry g = geometry();
  g.dma_alignment = 512;
  g.max_segments = 16;
  const abi::Params params = params_from_geometry(g, kLimits);
  EXPECT_EQ(params.types, abi::kParamBasic | abi::kParamDmaAlign | abi::kParamSegment);
  EXPECT_EQ(params.dma.alignment, 511u);
  EXPECT_EQ(params.seg.max_segments, 16);
  EXPECT_EQ(params.seg.max_segment_size, 65536u);
  EXPECT_EQ(params.seg.seg_boundary_mask & (params.seg.seg_boundary_mask + 1), 0u);
  EXPECT_NE(params.seg.seg_boundary_mask, ~uint64_t{0});
}

// The kernel's 128 pages are too few for a request of 512K that begins in the middle of one.
TEST(ParamsFromGeometry, TheLargestRequestMayBeScattered) {
  const auto segments_of = [](uint32_t max_io_size, uint32_t of_handler = 0) {
    ublk_geometry g = geometry();
    g.max_segments = of_handler;
    const abi::Params params =
        params_from_geometry(g, {.read_only = false, .max_io_size = max_io_size});
    return (params.types & abi::kParamSegment) != 0 ? params.seg.max_segments : 0;
  };
  EXPECT_EQ(segments_of(127 * 4096), 0) << "the kernel's default is enough";
  EXPECT_EQ(segments_of(512 << 10), 129);
  EXPECT_EQ(segments_of(32 << 20), 8193);
  EXPECT_EQ(segments_of(32 << 20, 16), 16);
}

TEST(ParamsFromGeometry, RefusesWhatTheKernelWould) {
  const auto refused = [](auto field, auto value, const std::string& text) {
    ublk_geometry bad = geometry();
    bad.*field = value;
    bad.flags |= UBLK_GEOMETRY_DISCARD;
    expect_refused(bad, text);
  };
  refused(&ublk_geometry::size, 0, "size is 0, expected a multiple of the logical block, 512");
  refused(&ublk_geometry::size, 1000, "size is 1000");
  refused(&ublk_geometry::logical_block_size, 256, "logical_block_size is 256, expected a power");
  refused(&ublk_geometry::logical_block_size, 8192, "logical_block_size");
  refused(&ublk_geometry::logical_block_size, 1536, "logical_block_size");
  refused(&ublk_geometry::physical_block_size, 256, "physical_block_size");
  refused(&ublk_geometry::io_min, 100, "io_min");
  refused(&ublk_geometry::io_opt, 3 << 16, "io_opt");
  refused(&ublk_geometry::max_io_size, 2048, "max_io_size");
  refused(&ublk_geometry::chunk_size, 2048, "chunk_size");
  refused(&ublk_geometry::chunk_size, 5000, "chunk_size");
  refused(&ublk_geometry::dma_alignment, 8192, "dma_alignment");
  refused(&ublk_geometry::dma_alignment, 0, "dma_alignment");
  refused(&ublk_geometry::max_segments, 70000, "max_segments");
  refused(&ublk_geometry::max_segment_size, 512, "max_segment_size");
  refused(&ublk_geometry::discard_granularity, 100, "discard_granularity");
  refused(&ublk_geometry::max_discard_size, 0, "max_discard_size");
  ublk_geometry bad = geometry();
  bad.flags = UBLK_GEOMETRY_FUA;
  expect_refused(bad, "FUA without UBLK_GEOMETRY_FLUSH");
}

TEST(RulesFromParams, OnlyWhatIsAdvertised) {
  ublk_geometry g = geometry();
  RequestRules rules = rules_from_params(params_from_geometry(g, kLimits));
  EXPECT_EQ(rules.operations, 1u << UBLK_OP_READ | 1u << UBLK_OP_WRITE);
  EXPECT_EQ(rules.sectors, 2048u);
  EXPECT_EQ(rules.max_sectors, kLimits.max_io_size / 512);
  EXPECT_EQ(rules.block_sectors, 1u);

  g.logical_block_size = 4096;
  g.flags = UBLK_GEOMETRY_FLUSH | UBLK_GEOMETRY_DISCARD | UBLK_GEOMETRY_WRITE_ZEROES;
  rules = rules_from_params(params_from_geometry(g, kLimits));
  EXPECT_EQ(rules.operations, 1u << UBLK_OP_READ | 1u << UBLK_OP_WRITE | 1u << UBLK_OP_FLUSH |
                                  1u << UBLK_OP_DISCARD | 1u << UBLK_OP_WRITE_ZEROES);
  EXPECT_EQ(rules.block_sectors, 8u);

  g.flags |= UBLK_GEOMETRY_READ_ONLY;
  rules = rules_from_params(params_from_geometry(g, kLimits));
  EXPECT_EQ(rules.operations, 1u << UBLK_OP_READ | 1u << UBLK_OP_FLUSH);
  EXPECT_TRUE(rules.read_only);
}

// ----------------------------------------------------------------- shortcoming --

TEST(ParamsShortcoming, WhatTheDeviceNeedsMustBeThere) {
  ublk_geometry g = geometry();
  const abi::Params device = params_from_geometry(g, kLimits);
  g.size *= 2;
  EXPECT_EQ(params_shortcoming(device, params_from_geometry(g, kLimits)), "");
  g.logical_block_size = 4096;
  g.flags = UBLK_GEOMETRY_FLUSH;
  EXPECT_EQ(params_shortcoming(device, params_from_geometry(g, kLimits)),
            "flush and FUA, block sizes");
  EXPECT_EQ(params_shortcoming(
                device, params_from_geometry(geometry(), {.read_only = true, .max_io_size = 4096})),
            "read-only, the largest I/O");
}

// A server that was upgraded, or the storage's hints, must not cost the device.
TEST(ParamsShortcoming, WhatIsOfferedBeyondThatIsNone) {
  ublk_geometry less = geometry();
  less.dma_alignment = 4096;
  less.max_segments = 16;
  ublk_geometry more = geometry();
  more.flags |= UBLK_GEOMETRY_DISCARD | UBLK_GEOMETRY_WRITE_ZEROES | UBLK_GEOMETRY_ROTATIONAL;
  more.physical_block_size = 4096;
  more.io_min = 4096;
  more.io_opt = 65536;
  more.max_segments = 32;
  const ParamLimits larger = {.max_io_size = 2 * kLimits.max_io_size};
  const abi::Params device = params_from_geometry(less, kLimits);
  const abi::Params offered = params_from_geometry(more, larger);
  EXPECT_EQ(params_shortcoming(device, offered), "");
  EXPECT_EQ(params_shortcoming(offered, device),
            "the largest I/O, discard and write-zeroes, the DMA alignment, segment limits");
}

TEST(ParamsShortcoming, TheKernelsDiscardsMustFit) {
  ublk_geometry g = geometry();
  g.flags |= UBLK_GEOMETRY_DISCARD;
  g.discard_granularity = 8192;
  const abi::Params device = params_from_geometry(g, kLimits);
  g.discard_granularity = 4096;
  const abi::Params finer = params_from_geometry(g, kLimits);
  EXPECT_EQ(params_shortcoming(device, finer), "");
  EXPECT_EQ(params_shortcoming(finer, device), "discard and write-zeroes");
}

TEST(ParamsShortcoming, SegmentLimitsCountWhereTheKernelKnowsThem) {
  ublk_geometry g = geometry();
  g.max_segments = 32;
  abi::Params device = params_from_geometry(g, kLimits);
  g.max_segments = 16;
  const abi::Params offered = params_from_geometry(g, kLimits);
  EXPECT_EQ(params_shortcoming(device, offered), "segment limits");
  // What Linux 6.12 makes of them.
  device.types &= ~abi::kParamSegment;
  device.seg = {};
  EXPECT_EQ(params_shortcoming(device, offered), "");
}

}  // namespace
}  // namespace ublk_runner
