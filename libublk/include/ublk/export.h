// SPDX-License-Identifier: MIT
// Marks what the shared library exports; everything else is hidden.
#ifndef UBLK_EXPORT_H
#define UBLK_EXPORT_H

#define UBLK_EXPORT __attribute__((visibility("default")))

#endif  // UBLK_EXPORT_H
