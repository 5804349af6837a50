// SPDX-License-Identifier: MIT
//
// Statistics as text and JSON.
#ifndef UBLK_CTL_STATISTICS_VIEW_H
#define UBLK_CTL_STATISTICS_VIEW_H

#include <cstdint>
#include <string>

#include "ctl/output.h"
#include "ctl/statistics_sample.h"

namespace ublk_ctl {

// "850ns", "12.3us", "4.56ms", "1.23s": three digits. 0 is empty.
std::string format_duration(uint64_t nanoseconds);
// "0", "12.3", "4.56k", "1.23M": three digits.
std::string format_rate(double value);
// "12.3M": of 1024.
std::string format_bytes(double bytes);

// What `stats` shows: a table of all operations that there were, and of each device, if there are
// few, what else is worth a look: its slowest requests, its timeouts.
std::string statistics_text(const Sample& sample, bool with_details);
// What `stats --watch` shows.
std::string rates_text(const Sample& before, const Sample& after);

Json to_json(const ublk_runner::DeviceStatistics& statistics);
Json to_json(const Sample& sample);  // by device

}  // namespace ublk_ctl

#endif  // UBLK_CTL_STATISTICS_VIEW_H
