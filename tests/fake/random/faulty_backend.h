// SPDX-License-Identifier: MIT
// A backend that fails, drops, shortens and keeps requests at random.
#ifndef UBLK_TESTS_FAKE_RANDOM_FAULTY_BACKEND_H
#define UBLK_TESTS_FAKE_RANDOM_FAULTY_BACKEND_H

#include <ublk/queue.h>
#include <ublk/request.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

namespace fake {

class FaultyBackend : public ublk::Backend {
 public:
  // Before a request is failed: the user will get `result`, unless the kernel takes the request
  // away. On the ring's thread.
  using Failing = std::function<void(uint64_t sector, int result)>;

  // Adds to `refused_commits` for each command that the kernel refuses with kRefusedCommit.
  static constexpr int kRefusedCommit = EINVAL;
  FaultyBackend(ublk::Backend& backend, uint64_t seed, Failing failing,
                std::atomic<unsigned>& refused_commits)
      : backend_(backend),
        failing_(std::move(failing)),
        refused_commits_(refused_commits),
        random_(seed) {}

  void submit(ublk::Request request) override;
  void need_buffer(ublk::Request request) override;
  void failed(ublk::Queue& queue, uint16_t tag, int error) override;
  void buffer_done(ublk::Queue& queue, uint16_t tag, std::byte* buffer) override {
    backend_.buffer_done(queue, tag, buffer);
  }

  // Any thread. While it keeps requests, some of them wait for release().
  void keep(bool on);  // off: releases all
  void release();      // one, if there is one

  // Commands that the kernel has refused: each may have cost the device a tag.
  unsigned refused() const { return refused_.load(std::memory_order_acquire); }

 private:
  enum class Fate : uint8_t { kServe, kKeep, kFail, kShorten, kDrop };
  Fate choose();
  void fail(ublk::Request request, int error);

  ublk::Backend& backend_;
  const Failing failing_;
  std::atomic<unsigned>& refused_commits_;
  std::mutex mutex_;
  std::mt19937_64 random_;
  bool keeps_ = true;
  std::vector<ublk::Request> kept_;
  std::atomic<unsigned> refused_{0};
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_RANDOM_FAULTY_BACKEND_H
