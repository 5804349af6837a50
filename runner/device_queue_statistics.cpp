// SPDX-License-Identifier: MIT
//
// What a queue does to count and time its requests, while that is switched on.
#include <utility>

#include "device_queue.h"
#include "device_queue_tag.h"

namespace ublk_runner {

void DeviceQueue::use_statistics(bool on) {
  if (queue_ == nullptr || on == (statistics() != nullptr)) return;
  if (on) {
    statistics_->forget_requests();
    thread_.clock().add_user();
  } else {
    thread_.clock().remove_user();
  }
  queue_->tell_of_commits(on);
  count(on);
}

void DeviceQueue::count(bool on) {
  // Release: who sees it sees the records forgotten.
  counting_.store(on ? statistics_.get() : nullptr, std::memory_order_release);
  set_intake(intake_);
  if (handler_.workers != nullptr) return;  // they call submit_ while it would change
  submit_ = on ? submit_counted : handler_.table.submit;
  instance_ = on ? this : handler_.instance;
}

int DeviceQueue::submit_counted(void* self, ublk_queue*, ublk_request* request) {
  DeviceQueue& queue = *static_cast<DeviceQueue*>(self);
  TurnClock& clock = queue.thread_.clock();
  const uint16_t tag = request->tag;
  queue.statistics_->started(tag, clock.last());
  const int result = queue.handler_.table.submit(queue.handler_.instance, &queue, request);
  if (result != UBLK_PENDING) queue.statistics_->answered(tag, clock.read());
  return result;
}

// Held requests stay counted, if it is where the predecessor has counted them.
void DeviceQueue::take_over_statistics(DeviceQueue& predecessor) {
  const QueueStatistics* counting = predecessor.statistics();
  if (counting != nullptr && counting != statistics_.get()) statistics_->forget_requests();
  predecessor.count(false);
  count(counting != nullptr);
}

// Of a request that is completed later. On the queue's thread the time of the turn will do: what it
// was woken for has happened then.
void DeviceQueue::note_answer(const Tag& tag, QueueStatistics& counting) {
  const bool own_thread = thread_.ring().on_own_thread();
  counting.answered(number_of(tag), own_thread ? thread_.clock().last() : monotonic_nanoseconds());
}

void DeviceQueue::committing(ublk::Queue&, uint16_t tag, int result) {
  QueueStatistics* counting = statistics();
  if (counting == nullptr) return;
  const bool own_thread = thread_.ring().on_own_thread();
  const uint64_t now =
      own_thread ? thread_.clock().at_least(counting->answered_at(tag)) : monotonic_nanoseconds();
  counting->committing(tag, result, now, own_thread);
}

}  // namespace ublk_runner
