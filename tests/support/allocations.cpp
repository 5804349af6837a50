// SPDX-License-Identifier: MIT
#include "allocations.h"

#include <cstddef>
#include <cstdlib>
#include <new>

std::atomic<uint64_t> test::allocations;

// A program's definition is found before that of the C++ library, also by what it loads.
#pragma GCC visibility push(default)
void* operator new(size_t size) {
  ++test::allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#pragma GCC visibility pop
