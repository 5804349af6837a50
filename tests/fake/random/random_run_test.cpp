// SPDX-License-Identifier: MIT
// Everything at once, at random: devices of all kinds come, work, are refused, die, recover and go.
// Each request ends once and rightly, nothing is left, and nothing waits for ever.
//
//   UBLK_FAKE_SEED=N    another run; the default is 1. It decides all but what threads do
//   meanwhile. UBLK_FAKE_STEPS=N   a longer one, by hand; 100 million take hours
#include <ublk/error.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "fake/fixture.h"
#include "slot.h"

namespace fake {
namespace {

namespace abi = ublk::abi;
using abi::IoOp;

uint64_t number_from_environment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? std::strtoull(value, nullptr, 10) : otherwise;
}

// Ends the program when it is not fed.
class Watchdog {
 public:
  explicit Watchdog(std::string message) : message_(std::move(message)) {
    thread_ = std::thread([this] { watch(); });
  }
  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  void feed() { step_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void watch() {
    std::unique_lock lock(mutex_);
    uint64_t before = 0;
    while (!changed_.wait_for(lock, kHung, [this] { return ending_; })) {
      const uint64_t now = step_.load(std::memory_order_relaxed);
      if (now == before) {
        std::fprintf(stderr, "step %llu hangs: %s\n", static_cast<unsigned long long>(now),
                     message_.c_str());
        std::abort();
      }
      before = now;
    }
  }

  const std::string message_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::atomic<uint64_t> step_{0};
  std::thread thread_;
};

class RandomRun {
 public:
  RandomRun(Driver& driver, uint64_t seed)
      : control_(driver),
        world_(driver, control_, serving_, [this](const std::string& what) { failed(what); }),
        random_(seed),
        watchdog_("UBLK_FAKE_SEED=" + std::to_string(seed)) {
    for (int i = 0; i < 3; ++i)
      serving_.push_back(threads_.emplace_back(std::make_unique<RingThread>()).get());
    for (int i = 0; i < 5; ++i) slots_.push_back(std::make_unique<Slot>(world_, random_()));
  }

  void step() {
    watchdog_.feed();
    Slot& slot = *slots_[random_() % slots_.size()];
    const auto dice = random_() % 1000;
    if (dice < 15)
      slot.step();
    else if (dice < 18)
      refuse_commit(slot);
    else if (dice < 80)
      slot.release();
    else if (!slot.submit())
      slot.release();
    if (world_.refused_commits != refused_commits_) {
      refused_commits_ = world_.refused_commits;
      world_.refusals.end();
    }
  }

  void end() {
    for (const auto& slot : slots_) {
      watchdog_.feed();
      slot->remove();
    }
    // An ADD that came too late is undone meanwhile.
    while (world_.driver.nr_devices() != 0) control_.features();
  }

  std::string error() {
    const std::lock_guard lock(mutex_);
    return error_;
  }

 private:
  void refuse_commit(Slot& slot) {
    Faults& faults = world_.driver.faults();
    if (slot.commits(true)) {
      random_() % 2 == 0 ? faults.fail(IoOp::kCommitIoCmds, ENOMEM) : faults.shorten_commit(1);
    } else if (slot.commits(false) && (world_.refusals.now() & 1) == 0) {
      world_.refusals.begin();
      faults.fail(IoOp::kCommitAndFetchReq, FaultyBackend::kRefusedCommit);
    }
  }
  void failed(const std::string& what) {
    const std::lock_guard lock(mutex_);
    if (error_.empty()) error_ = what;
  }

  std::mutex mutex_;
  std::string error_;
  ublk::Control control_;
  std::vector<std::unique_ptr<RingThread>> threads_;
  std::vector<RingThread*> serving_;
  RandomWorld world_;
  unsigned refused_commits_ = 0;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Slot>> slots_;
  Watchdog watchdog_;
};

using RandomRunTest = FakeTest;

TEST_F(RandomRunTest, EachRequestEndsOnceAndNothingIsLeft) {
  use({.registers_buffers = true});
  const uint64_t seed = number_from_environment("UBLK_FAKE_SEED", 1);
  const uint64_t steps = number_from_environment("UBLK_FAKE_STEPS", kSanitized ? 20'000 : 100'000);
  SCOPED_TRACE("UBLK_FAKE_SEED=" + std::to_string(seed));
  RandomRun run(driver(), seed);
  uint64_t step = 0;
  while (step < steps && run.error().empty()) {
    run.step();
    ++step;
  }
  run.end();
  EXPECT_EQ(run.error(), "") << "step " << step;
}

}  // namespace
}  // namespace fake
