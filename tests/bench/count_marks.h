// SPDX-License-Identifier: MIT
//
// How a program in the guest speaks to count_guest.cpp outside: by a long NOP whose displacement is
// a number that no compiler makes.
#ifndef UBLK_BENCH_COUNT_MARKS_H
#define UBLK_BENCH_COUNT_MARKS_H

#define COUNT_BEGIN 0x7562626bu  // NOLINT(cppcoreguidelines-macro-usage): for the assembler, too
#define COUNT_END 0x7562656eu
#define COUNT_MARK_OPCODE 0x0f, 0x1f, 0x84, 0x00  // nopl DISPLACEMENT(%rax,%rax)

#endif  // UBLK_BENCH_COUNT_MARKS_H
