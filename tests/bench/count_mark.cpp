// SPDX-License-Identifier: MIT
//
//   bench_count_mark begin|end      counting in count_guest.cpp
#include <cstring>

#include "count_marks.h"

#define MARK(number) asm volatile(".byte 0x0f, 0x1f, 0x84, 0x00\n\t.long %c0" ::"i"(number))

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "begin") == 0)
    MARK(COUNT_BEGIN);
  else if (argc == 2 && std::strcmp(argv[1], "end") == 0)
    MARK(COUNT_END);
  else
    return 2;
  return 0;
}
