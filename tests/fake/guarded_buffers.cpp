// SPDX-License-Identifier: MIT
#include "guarded_buffers.h"

#include <sys/mman.h>

#include "command.h"

namespace fake {

void GuardedBuffers::close(size_t slot, uint64_t address, size_t bytes, const Io& last) {
  if (slot >= kSlots || address == 0) return;
  Slot& entry = slots_[slot];
  entry.bytes = bytes;
  entry.last = last;
  entry.begin.store(address, std::memory_order_release);
  mprotect(pointer_to<void>(address), bytes, PROT_NONE);
}

void GuardedBuffers::open(size_t slot) {
  if (slot >= kSlots) return;
  Slot& entry = slots_[slot];
  const uintptr_t begin = entry.begin.exchange(0, std::memory_order_acq_rel);
  if (begin != 0) mprotect(pointer_to<void>(begin), entry.bytes, PROT_READ | PROT_WRITE);
}

std::optional<GuardedBuffers::Found> GuardedBuffers::find(const void* address) const noexcept {
  const auto at = reinterpret_cast<uintptr_t>(address);
  for (const Slot& slot : slots_) {
    const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    if (begin == 0 || at < begin || at - begin >= slot.bytes) continue;
    return Found{slot.last.op, slot.last.sector, slot.last.sectors, at - begin};
  }
  return std::nullopt;
}

}  // namespace fake
