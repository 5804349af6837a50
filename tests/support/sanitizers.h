// SPDX-License-Identifier: MIT
//
// Which sanitizers this is built with: g++ defines macros, clang has features.
#ifndef UBLK_TESTS_SUPPORT_SANITIZERS_H
#define UBLK_TESTS_SUPPORT_SANITIZERS_H

#ifdef __has_feature
#define UBLK_TEST_FEATURE(name) __has_feature(name)
#else
#define UBLK_TEST_FEATURE(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || UBLK_TEST_FEATURE(address_sanitizer)
#define UBLK_TEST_ASAN 1
#else
#define UBLK_TEST_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__) || UBLK_TEST_FEATURE(thread_sanitizer)
#define UBLK_TEST_TSAN 1
#else
#define UBLK_TEST_TSAN 0
#endif

namespace test {

inline constexpr bool kAddressSanitized = UBLK_TEST_ASAN != 0;
inline constexpr bool kThreadSanitized = UBLK_TEST_TSAN != 0;
// Either makes everything some ten times slower.
inline constexpr bool kSanitized = kAddressSanitized || kThreadSanitized;

}  // namespace test

#endif  // UBLK_TESTS_SUPPORT_SANITIZERS_H
