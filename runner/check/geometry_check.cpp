// SPDX-License-Identifier: MIT
// What a handler says of its device.
#include <params_from_geometry.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "check.h"
#include "opener.h"

namespace ublk_check {

namespace {

std::string text_of(const ublk_geometry& geometry) {
  std::string text = std::to_string(geometry.size) + " bytes in blocks of " +
                     std::to_string(geometry.logical_block_size);
  const std::pair<uint32_t, const char*> kFlags[] = {{UBLK_GEOMETRY_READ_ONLY, "read-only"},
                                                     {UBLK_GEOMETRY_FLUSH, "flush"},
                                                     {UBLK_GEOMETRY_FUA, "FUA"},
                                                     {UBLK_GEOMETRY_DISCARD, "discard"},
                                                     {UBLK_GEOMETRY_WRITE_ZEROES, "write-zeroes"},
                                                     {UBLK_GEOMETRY_ZERO_COPY, "zero copy"},
                                                     {UBLK_GEOMETRY_VOLATILE, "volatile"}};
  for (const auto& [flag, name] : kFlags)
    if ((geometry.flags & flag) != 0) text += std::string(", ") + name;
  return text;
}

}  // namespace

void check_geometry(Context& context) {
  Opener opener(context.library());
  ublk_runner::DeviceConfig device = context.device();
  auto instance = opener.open(device);
  const ublk_geometry first = instance->geometry();
  const ublk_geometry again = instance->geometry();
  if (std::memcmp(&first, &again, sizeof(first)) != 0)
    throw std::runtime_error("geometry says something else when it is asked again: " +
                             text_of(first) + "; then " + text_of(again));
  ublk_runner::params_from_geometry(first, {device.read_only, device.max_io_size});
  context.report().note(text_of(first));
  instance.reset();

  const auto served = context.serve();
  if (served->params().basic.dev_sectors * ublk::abi::kSectorSize != first.size)
    throw std::runtime_error("geometry gives another size while it is served");
}

}  // namespace ublk_check
