// SPDX-License-Identifier: MIT
//
// DeviceStatistics as the D-Bus value that GetStatistics of org.ublk.Runner1.xml describes.
#ifndef UBLK_RUNNER_STATISTICS_VARIANT_H
#define UBLK_RUNNER_STATISTICS_VARIANT_H

#include "device_statistics.h"
#include "glib_ptr.h"

namespace ublk_runner {

// A new, floating a{sv}.
GVariant* to_variant(const DeviceStatistics& statistics);

// What a runner has sent: keys that are missing, or not known, or of another type are left out.
DeviceStatistics statistics_from_variant(GVariant* dictionary);

}  // namespace ublk_runner

#endif  // UBLK_RUNNER_STATISTICS_VARIANT_H
