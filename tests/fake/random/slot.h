// SPDX-License-Identifier: MIT
// A device that comes, works, fails, dies, recovers and goes, at random.
#ifndef UBLK_TESTS_FAKE_RANDOM_SLOT_H
#define UBLK_TESTS_FAKE_RANDOM_SLOT_H

#include <ublk/control.h>
#include <ublk/device.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fake/backends.h"
#include "fake/driver.h"
#include "fake/ring_thread.h"
#include "faulty_backend.h"
#include "lane.h"

namespace fake {

// What the slots of a run share.
struct RandomWorld {
  RandomWorld(Driver& of, ublk::Control& by, const std::vector<RingThread*>& on,
              Lane::Failed on_failure)
      : driver(of), control(by), threads(on), failed(std::move(on_failure)) {}

  Driver& driver;
  ublk::Control& control;
  const std::vector<RingThread*>& threads;
  Disturbance refusals;  // while a COMMIT is to be refused
  std::atomic<unsigned> refused_commits{0};
  Lane::Failed failed;
};

//            start()                     disturb(): the server dies, or is told to let go
//   absent ----------> live ------------------------------------------> down, with recovery
//     ^                 ^ |                                               |      |
//     |                 | |              recover()                        |      |
//     |                 +-)-----------------------------------------------+      |
//     |       remove()    v                                                      |
//     +--------------------------------------------------------------------------+
//
// Whatever the driver refuses or delays in between, remove() gets back to absent. One thread.
class Slot {
 public:
  Slot(RandomWorld& world, uint64_t seed);
  // The slot must be absent.
  ~Slot() = default;
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  // One step of the device's life.
  void step();
  // A request of a user who has none under way; false: all have, or there is no disk.
  bool submit();
  // Lets one of the requests go on that the backend keeps.
  void release();
  void remove();  // does nothing to an absent one

  // It is live, and commits are of this kind.
  bool commits(bool batch) const;
  const std::string& did() const { return did_; }  // the last steps

 private:
  enum class State : uint8_t { kAbsent, kLive, kDown };

  void start();
  void take_away();
  void recover();
  void disturb();
  bool quiesce();
  void resize();
  void ask();
  ublk::DeviceSpec random_spec();
  bool attach();
  void let_go();
  void die();
  void expect(const char* what, int result, int expected);
  void note(const std::string& what);

  // 0 or -errno. Sometimes the driver is told to refuse, to lose or to delay the command.
  int attempt(ublk::Command command);
  int attempt_late(ublk::Command command);
  // Once more until the driver lets it pass; `or_error` is as good as success.
  void insist(const std::function<ublk::Command()>& command, int or_error = 0);
  int run(ublk::Command command, std::chrono::milliseconds deadline);
  unsigned dice(unsigned sides) { return static_cast<unsigned>(random_() % sides); }
  bool has(uint64_t flag) const { return (info_.flags & flag) != 0; }
  uint32_t id() const { return info_.dev_id; }

  RandomWorld& world_;
  std::mt19937_64 random_;
  Disturbance disturbance_;
  std::vector<std::unique_ptr<Lane>> lanes_;

  State state_ = State::kAbsent;
  ublk::abi::DevInfo info_{};
  std::unique_ptr<MemoryBackend> memory_;  // the data
  std::unique_ptr<WorkersBackend> workers_;
  std::unique_ptr<FaultyBackend> backend_;
  std::unique_ptr<CountedBackend> counted_;
  std::shared_ptr<ublk::DeviceNode> node_;
  std::shared_ptr<Disk> disk_;
  std::string did_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_RANDOM_SLOT_H
