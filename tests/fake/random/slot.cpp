// SPDX-License-Identifier: MIT
#include "slot.h"

#include <ublk/error.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <thread>
#include <utility>

namespace fake {

namespace abi = ublk::abi;
using namespace std::chrono_literals;
using abi::ControlOp;
using abi::DeviceState;
using abi::IoOp;

namespace {

constexpr unsigned kLanes = 16;
constexpr uint32_t kLaneSectors = 32;
constexpr uint64_t kSectors = kLanes * kLaneSectors;
constexpr size_t kBytes = 2 * kSectors * abi::kSectorSize;  // the largest that it is resized to
constexpr auto kLong = 60s;
constexpr auto kShort = 20ms;

}  // namespace

Slot::Slot(RandomWorld& world, uint64_t seed) : world_(world), random_(seed) {
  for (unsigned lane = 0; lane < kLanes; ++lane)
    lanes_.push_back(std::make_unique<Lane>(
        lane * kLaneSectors, kLaneSectors, random_(),
        std::vector<const Disturbance*>{&disturbance_, &world.refusals}, world.failed));
}

void Slot::note(const std::string& what) {
  constexpr size_t kKept = 400;
  did_ += ' ' + what;
  if (did_.size() > 2 * kKept) did_.erase(0, did_.size() - kKept);
}

// ---------------------------------------------------------------------- life --

void Slot::step() {
  if (state_ == State::kAbsent) {
    start();
  } else if (state_ == State::kDown) {
    dice(5) == 0 ? remove() : recover();
  } else if (backend_->refused() != 0) {
    dice(2) == 0 ? remove() : disturb();
  } else {
    switch (dice(6)) {
      case 0:
        remove();
        break;
      case 1:
      case 2:
        disturb();
        break;
      case 3:
        resize();
        break;
      default:
        ask();
    }
  }
}

bool Slot::submit() {
  if (disk_ == nullptr) return false;
  const unsigned first = dice(kLanes);
  for (unsigned i = 0; i < kLanes; ++i) {
    Lane& lane = *lanes_[(first + i) % kLanes];
    if (!lane.idle()) continue;
    lane.submit(*disk_);
    return true;
  }
  return false;
}

void Slot::release() {
  if (backend_ != nullptr) backend_->release();
}

bool Slot::commits(bool batch) const {
  return state_ == State::kLive && has(abi::kFlagBatchIo) == batch;
}

ublk::DeviceSpec Slot::random_spec() {
  constexpr std::array<uint64_t, 6> kModes = {0,
                                              abi::kFlagNeedGetData,
                                              abi::kFlagUserCopy,
                                              abi::kFlagBatchIo,
                                              abi::kFlagBatchIo | abi::kFlagUserCopy,
                                              abi::kFlagUserCopy | abi::kFlagSupportZeroCopy};
  constexpr std::array<uint64_t, 4> kRecoveries = {
      0, abi::kFlagUserRecovery, abi::kFlagUserRecovery | abi::kFlagUserRecoveryReissue,
      abi::kFlagUserRecovery | abi::kFlagUserRecoveryFailIo};
  const uint64_t recovery = kRecoveries[dice(kRecoveries.size())];
  const uint64_t quiesce = recovery != 0 && dice(2) == 0 ? abi::kFlagQuiesce : 0;
  const uint64_t flags = kModes[dice(kModes.size())] | recovery | quiesce |
                         abi::kFlagNoAutoPartScan | abi::kFlagUpdateSize;
  const auto queues = static_cast<uint16_t>(1 + dice(3));
  const auto depth = static_cast<uint16_t>(2 + dice(12));
  return device_spec(kSectors * abi::kSectorSize, queues, depth, abi::kAttrVolatileCache, flags);
}

void Slot::start() {
  const ublk::DeviceSpec spec = random_spec();
  disturbance_.begin();
  if (const int result = attempt(ublk::Command::add(spec.info)); result != 0) return;
  note("add");
  memory_ = std::make_unique<MemoryBackend>(kBytes);
  bool started = attempt(ublk::Command::set_params(id(), spec.params)) == 0;
  if (started && dice(20) != 0) {
    const bool whole = attach();
    const auto command = ublk::Command::start(id(), getpid());
    started = whole ? attempt(command) == 0 : run(command, kShort) == 0;
    if (!whole) expect("START_DEV without all tags", started ? 0 : -ETIMEDOUT, -ETIMEDOUT);
  } else {
    started = false;
  }
  if (!started) {
    take_away();
    return;
  }
  note("start");
  disk_ = world_.driver.disk(id());
  state_ = State::kLive;
  disturbance_.end();
}

// False: a command has been refused, and some tag or a whole queue is not served.
bool Slot::attach() {
  bool whole = true;
  if (dice(12) == 0) {
    whole = false;
    const IoOp op = has(abi::kFlagBatchIo) ? IoOp::kPrepIoCmds : IoOp::kFetchReq;
    world_.driver.faults().fail(op, ENOMEM, 1 + dice(info_.nr_hw_queues));
    note("maimed");
  } else if (has(abi::kFlagBatchIo) && dice(4) == 0) {
    world_.driver.faults().fail(IoOp::kFetchIoCmds, ENOMEM);  // is done again
  }
  ublk::Backend* data = memory_.get();
  if (const unsigned threads = dice(3); threads != 0) {
    workers_ = std::make_unique<WorkersBackend>(*data, threads);
    data = workers_.get();
  }
  const auto failing = [this](uint64_t sector, int result) {
    lanes_.at(sector / kLaneSectors)->expect(result);
  };
  backend_ = std::make_unique<FaultyBackend>(*data, random_(), failing, world_.refused_commits);
  counted_ = std::make_unique<CountedBackend>(*backend_);
  node_ = ublk::DeviceNode::open(world_.driver, info_);
  const unsigned first = dice(static_cast<unsigned>(world_.threads.size()));
  for (uint16_t queue = 0; queue < info_.nr_hw_queues; ++queue) {
    world_.threads[(first + queue) % world_.threads.size()]->attach(node_, queue, *counted_);
    counted_->attached();
  }
  return whole;
}

// Waits until nothing of the device is used any more.
void Slot::let_go() {
  if (backend_ != nullptr) backend_->keep(false);
  counted_.reset();
  workers_.reset();
  backend_.reset();
  node_.reset();
}

void Slot::remove() {
  if (state_ == State::kAbsent) return;
  note("remove");
  take_away();
}

void Slot::take_away() {
  disturbance_.begin();
  const bool maimed =
      (world_.refusals.now() & 1) != 0 || (backend_ != nullptr && backend_->refused() != 0);
  if (backend_ != nullptr) backend_->keep(false);
  // A tag that nobody serves would let STOP wait for ever.
  if (maimed || dice(4) == 0) world_.driver.kill(id());
  insist([this] { return ublk::Command::stop(id()); }, -ENODEV);
  let_go();
  disk_.reset();
  insist([this] { return ublk::Command::del(id()); }, -ENODEV);
  for (const auto& lane : lanes_) {
    while (!lane->idle()) std::this_thread::yield();
    lane->forget();
  }
  memory_.reset();
  state_ = State::kAbsent;
  disturbance_.end();
}

// ------------------------------------------------------------- death and recovery --

void Slot::disturb() {
  disturbance_.begin();
  switch (dice(3)) {
    case 0:
      note("kill");
      world_.driver.kill(id());
      break;
    case 1:
      note("cancel");
      world_.driver.cancel_queues(id());
      break;
    default:
      if (quiesce()) break;
      disturbance_.end();
      return;
  }
  die();
}

// False: the device goes on.
bool Slot::quiesce() {
  note("quiesce");
  const int result = attempt(ublk::Command::quiesce(id(), 0));
  if (result == 0) return true;
  if (result != -ETIMEDOUT) return false;
  world_.driver.kill(id());  // nobody knows whether it has come
  return true;
}

void Slot::die() {
  let_go();
  const DeviceState left = has(abi::kFlagUserRecoveryFailIo) ? DeviceState::kFailIo
                           : has(abi::kFlagUserRecovery)     ? DeviceState::kQuiesced
                                                             : DeviceState::kDead;
  auto state = DeviceState::kLive;
  while (state == DeviceState::kLive)
    state = static_cast<DeviceState>(world_.control.info(id()).state);
  expect("the state after a death", static_cast<int>(state), static_cast<int>(left));
  state_ = State::kDown;
  if (left == DeviceState::kDead) remove();
}

void Slot::recover() {
  note("recover");
  insist([this] { return ublk::Command::start_recovery(id()); });
  const bool whole = attach();
  bool recovered = false;
  if (dice(6) != 0) {
    const auto command = ublk::Command::end_recovery(id(), getpid());
    const int result = whole ? attempt(command) : run(command, kShort);
    if (!whole) expect("END_USER_RECOVERY without all tags", result, -ETIMEDOUT);
    // One that was late may have come in the end.
    recovered = static_cast<DeviceState>(world_.control.info(id()).state) == DeviceState::kLive;
    if (result == 0) expect("END_USER_RECOVERY", recovered ? 0 : 1, 0);
  }
  if (recovered) {
    state_ = State::kLive;
    disturbance_.end();
    return;
  }
  note("dies again");
  world_.driver.kill(id());
  let_go();
}

// ----------------------------------------------------------------- small steps --

void Slot::resize() {
  const uint64_t sectors = kSectors * (1 + dice(2));
  note("resize");
  if (attempt(ublk::Command::update_size(id(), sectors)) != 0) return;
  expect("the size", static_cast<int>(disk_->sectors()), static_cast<int>(sectors));
}

void Slot::ask() {
  expect("TRY_STOP_DEV of an open disk", run(ublk::Command::try_stop(id()), kLong), -EBUSY);
  const int busy = has(abi::kFlagUserRecovery) ? -EBUSY : -EINVAL;
  expect("START_USER_RECOVERY", run(ublk::Command::start_recovery(id()), kLong), busy);
  expect("the state", world_.control.info(id()).state, static_cast<int>(DeviceState::kLive));
  const abi::Params params = world_.control.params(id());
  expect("SET_PARAMS", run(ublk::Command::set_params(id(), params), kLong), -EACCES);
  attempt(ublk::Command::get_info(id()));
}

void Slot::expect(const char* what, int result, int expected) {
  if (result == expected) return;
  world_.failed("device " + std::to_string(id()) + ": " + what + " is " + std::to_string(result) +
                ", not " + std::to_string(expected) + ", after" + did_);
}

// ------------------------------------------------------------------ commands --

int Slot::run(ublk::Command command, std::chrono::milliseconds deadline) {
  try {
    const ublk::Command answer = world_.control.run(std::move(command), deadline);
    if (answer.op() == ControlOp::kAddDev) info_ = answer.info();
    return 0;
  } catch (const ublk::Error& e) {
    return -e.error();
  }
}

int Slot::attempt(ublk::Command command) {
  constexpr std::array kErrors = {EINTR, EAGAIN, ENOMEM, EBUSY, EIO};
  const auto fate = dice(100);
  if (fate < 3) return attempt_late(std::move(command));
  if (fate >= 10) return run(std::move(command), kLong);
  const int error = kErrors[dice(kErrors.size())];
  world_.driver.faults().fail(command.op(), error);
  const char* const name = command.name();
  const int result = run(std::move(command), kLong);
  if (result != -error)
    world_.failed(std::string(name) + " is to fail with " + ublk::errno_name(error) + ", not " +
                  std::to_string(result));
  return result;
}

// The deadline passes; then the driver gets the command after all, or it is interrupted.
int Slot::attempt_late(ublk::Command command) {
  Held held = world_.driver.faults().hold(command.op());
  const int result = run(std::move(command), kShort);
  if (result != -ETIMEDOUT) world_.failed("a lost command ends with " + std::to_string(result));
  if (!held.wait(kLong)) {
    world_.failed("a lost command has not come");
    return result;
  }
  if (dice(2) == 0)
    held.release();
  else
    held.answer(-EINTR);
  world_.control.dispatch();
  return result;
}

void Slot::insist(const std::function<ublk::Command()>& command, int or_error) {
  for (int result = 1; result != 0 && result != or_error;) result = attempt(command());
}

}  // namespace fake
