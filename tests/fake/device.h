// SPDX-License-Identifier: MIT
// A device of the fake driver: its state, its queues and what the server's commands do to them.
#ifndef UBLK_TESTS_FAKE_DEVICE_H
#define UBLK_TESTS_FAKE_DEVICE_H

#include <sys/types.h>
#include <ublk/abi.h>
#include <ublk/unique_fd.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "command.h"
#include "disk.h"
#include "guarded_buffers.h"
#include "loop.h"
#include "node_file.h"

namespace fake {

// The life of a device. Each state but "added" has a disk, unless it says so.
//
//          START_DEV, all tags fetched            STOP_DEV, no I/O in flight
//   added ----------------------------> LIVE ------------------------------> stopped (no disk)
//     ^                                  |                                       |
//     |                                  | the server has let go of ublkc        | let go
//     |                                  v                                       v
//     |<--- no recovery --------- LIVE without server                          added
//     |
//     |  recovery: QUIESCED or FAIL_IO -- START_USER_RECOVERY, FETCH, END_USER_RECOVERY --> LIVE
//
// A tag: unfetched -> FETCH -> idle -> request -> server -> COMMIT -> idle. When the device stops
// or `canceling_`, idle tags are given back with ENODEV and are unfetched again. After kill() the
// server's are orphaned until it lets go of them or of ublkc.
//
// Everything is on the loop's thread.
class Device {
 public:
  // `info` as settle_info() left it. Protocol errors that make a real kernel warn or misbehave are
  // added to `violations`.
  // With `registers` REGISTER_IO_BUF succeeds. `guard` nullptr: the tags' buffers are not guarded.
  Device(Loop& loop, std::vector<std::string>& violations, std::shared_ptr<NodeFile> node,
         const ublk::abi::DevInfo& info, bool registers, GuardedBuffers* guard);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const ublk::abi::DevInfo& info() const { return info_; }
  const std::shared_ptr<Disk>& disk() const { return disk_; }
  const NodeFile& node() const { return *node_; }
  bool has(uint64_t flag) const { return (info_.flags & flag) != 0; }

  // Control commands that end at once: 0 or -errno.
  int set_params(const ublk::abi::Params& params, uint64_t features);
  const ublk::abi::Params& params() const { return params_; }
  int try_stop_allowed() const;
  int update_size(uint64_t sectors);
  int quiesce();
  int start_recovery();

  // Those that wait. They answer by themselves.
  void start(Command& command);  // END_USER_RECOVERY, too
  void stop(std::function<void()> stopped);
  void wait_for_removal(Command& command) { removal_waiters_.push_back(&command); }
  // Ends one of them with EINTR if it waits in a way that can be interrupted.
  bool interrupt(const RingPort& port, uint64_t user_data);
  // The process that waits is killed.
  void interrupt_all();

  // After DEL_DEV: nobody can open it any more.
  void mark_deleted() { deleted_ = true; }
  bool deleted() const { return deleted_; }
  bool removable() const {
    return deleted_ && starters_.empty() && !node_->is_open() && left_disk_.expired();
  }
  void answer_removal();

  // ublkc. open() fails with errno set.
  ublk::UniqueFd open();
  bool opened() const { return server_ != 0; }
  void released();

  // A thread of the server has died: all idle tags are given back, and the device serves no more.
  void cancel_queues();
  // The server is as good as dead, and what it has is taken from it: whatever it does with that is
  // answered with ENODEV. As far as the kernel goes with a killed process before it has closed
  // ublkc.
  void kill();

  // I/O commands.
  void handle_io(Command& command);
  void refuse_io(Command& command, int error);

  // A request of the block layer.
  void submit(std::unique_ptr<BlockRequest> request);

 private:
  struct Tag {
    enum class State : uint8_t { kUnfetched, kIdle, kServer, kOrphaned };
    State state = State::kUnfetched;
    bool wants_buffer = false;   // the server knows the request and has not its data: get-data mode
    Command* command = nullptr;  // idle; none with kFlagBatchIo
    pid_t daemon = 0;            // who may commit
    uint64_t address = 0;        // of the tag's buffer
    uint64_t registration = 0;   // of the next request's data, with kFlagAutoBufReg
    int buffer_index = -1;       // where the data of the present one is registered
    std::unique_ptr<BlockRequest> request;  // server
    Io last;                                // the request that was handed out last, for the guard
  };
  struct Queue {
    std::vector<Tag> tags;
    // Used from the end: a tag is used again at once. With a guard from the front: as late as can
    // be.
    std::vector<uint16_t> idle;
    std::deque<std::unique_ptr<BlockRequest>> waiting;
    unsigned in_flight = 0;
    pid_t daemon = 0;             // of all tags, without kFlagPerIoDaemon
    Command* fetch = nullptr;     // of many tags, with kFlagBatchIo
    std::deque<uint16_t> handed;  // tags that it has not brought to the server yet
  };

  ublk::abi::DeviceState state() const { return static_cast<ublk::abi::DeviceState>(info_.state); }
  void set_state(ublk::abi::DeviceState state) { info_.state = static_cast<uint16_t>(state); }
  bool all_fetched() const;

  void try_start();
  void finish_start(Command& command);
  int start_error(const Command& command) const;
  void make_disk(Command& starter);
  void drop_disk();
  void check_drained();
  void abort_idle();
  void reset_queues();
  void server_died();
  void take_back_requests(Tag::State left, bool reissue);
  void fail_waiting(int result);

  int check_request(const BlockRequest& request) const;
  void dispatch(uint16_t queue);
  void hand_out(uint16_t queue, uint16_t tag);
  void give_data(uint16_t queue, uint16_t tag);
  int fetch(Command& command);
  int commit(Command& command);
  int get_data(Command& command);
  void put_back(Command& command);
  int register_data(Command& command);
  int unregister_data(Command& command);
  // Batch I/O, device_batch.cpp.
  int handle_batch(Command& command);
  int prepare(Command& command);
  int fetch_many(Command& command);
  int commit_many(Command& command);
  void bring_tags(Queue& queue);
  void abort_batch(Queue& queue);
  static bool release_orphan(Tag& tag);
  int check_address(uint64_t address, const Tag& tag) const;
  // A COMMIT's data and result.
  int end_result(const BlockRequest& request, const ublk::abi::IoCmd& io,
                 const std::vector<std::byte>& data);
  uint16_t take_idle(Queue& queue) const;
  size_t guard_slot(uint16_t queue, uint16_t tag) const {
    return size_t{queue} * info_.queue_depth + tag;
  }
  void tag_idle(Queue& queue, const ublk::abi::IoCmd& io, uint64_t registration, Command* command);
  void end_request(uint16_t queue, std::unique_ptr<BlockRequest> request, int result);

  Loop& loop_;
  std::vector<std::string>& violations_;
  const bool registers_;
  GuardedBuffers* const guard_;
  ublk::abi::DevInfo info_;
  ublk::abi::Params params_{};
  const std::shared_ptr<NodeFile> node_;
  std::vector<Queue> queues_;
  std::shared_ptr<Disk> disk_;
  std::weak_ptr<Disk> left_disk_;  // the one before, while somebody has it open
  uint16_t next_queue_ = 0;
  pid_t server_ = 0;  // the process that has ublkc open
  bool stopping_ = false;
  bool canceling_ = false;  // tags that come back are not used any more
  bool deleted_ = false;
  std::vector<Command*> starters_;  // wait for all tags to be fetched
  Command* scanner_ = nullptr;      // START_DEV, looks for partitions
  std::vector<std::function<void()>> stop_waiters_;
  std::vector<Command*> removal_waiters_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_DEVICE_H
