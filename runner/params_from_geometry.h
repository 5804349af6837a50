// SPDX-License-Identifier: MIT
//
// From what a handler says about its device to what the kernel wants to know of it.
#ifndef UBLK_RUNNER_PARAMS_FROM_GEOMETRY_H
#define UBLK_RUNNER_PARAMS_FROM_GEOMETRY_H

#include <ublk/abi.h>
#include <ublk/handler.h>

#include <cstdint>
#include <string>

namespace ublk_runner {

// What the configuration says on the same subjects.
struct ParamLimits {
  bool read_only = false;
  uint32_t max_io_size = 0;  // bytes, a multiple of 4096
};

// The parameters for SET_PARAMS; basic.max_sectors is also the size that tags' buffers need. Throws
// std::invalid_argument that names the geometry's field, its value and what was expected.
ublk::abi::Params params_from_geometry(const ublk_geometry& geometry, const ParamLimits& limits);

// What the handler of a device that lives must offer and does not: "read-only, block sizes"; empty:
// nothing. `device`: as the kernel has them, and goes on to; its size alone can change. What a
// handler offers beyond that is of no use to the device, and hints are hints.
std::string params_shortcoming(const ublk::abi::Params& device, const ublk::abi::Params& offered);

// Which of the kernel's requests may reach the handler.
struct RequestRules {
  uint64_t sectors = 0;               // of the device
  uint32_t block_sectors = 1;         // of a logical block, a power of two
  uint32_t max_sectors = UINT32_MAX;  // of a READ or WRITE: what the tags' buffers hold
  uint32_t operations = 0;            // 1 << ublk_op, for each that is advertised
  bool read_only = false;
};

RequestRules rules_from_params(const ublk::abi::Params& params);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_PARAMS_FROM_GEOMETRY_H
