// SPDX-License-Identifier: MIT
#include "shared_pools.h"

namespace ublk_runner {

namespace {

// What was idle from one look to the next is given back: so after 2 to 4 seconds.
constexpr std::chrono::seconds kTrimInterval{2};

}  // namespace

std::shared_ptr<SharedPools> SharedPools::make(const MainContext& context, size_t buffer_memory) {
  return std::shared_ptr<SharedPools>(new SharedPools(context, buffer_memory));
}

void SharedPools::call_soon() noexcept {
  context_.post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->trim_later();
  });
}

void SharedPools::trim_later() {
  trim_timer_ = context_.after(kTrimInterval, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (self != nullptr && self->buffers_.trim()) self->trim_later();
  });
}

}  // namespace ublk_runner
