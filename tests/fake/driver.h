// SPDX-License-Identifier: MIT
//
// An in-process ublk driver behind libublk's seam, so that the library, and what is built on it,
// runs without root and without the kernel's driver, under sanitizers, with faults that no kernel
// gives on demand:
//
//   fake::Driver driver;
//   ublk::Control control(driver);
//   ublk::Device device(control, spec);
//   ...                                              // queues on rings, as with the real one
//   device.start();
//   std::shared_ptr<fake::Disk> disk = driver.disk(device.id());
//   disk->write(0, 8, data);
//
// What it imitates: the control commands and their errors, the state machine of devices and tags,
// the copying of data in copy, get-data and user-copy mode, batch I/O, the partition scan inside
// START_DEV, references to ublkc, the death of a server and recovery; of zero copy the commands,
// not the data: nothing is in the rings' buffer tables. What it does not: zones, integrity,
// unprivileged devices, GET_DEV_INFO2; the checks of user copy's offsets; a ring that ends while
// ublkc stays open (cancel_queues() plays that).
//
// For ThreadSanitizer a command is ordered before what the driver does with it, and that before the
// server's reading of the CQE; so a backend that uses a buffer too late is found. The copying is
// seen by AddressSanitizer, too.
#ifndef UBLK_TESTS_FAKE_DRIVER_H
#define UBLK_TESTS_FAKE_DRIVER_H

#include <ublk/driver.h>

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "device.h"
#include "device_limits.h"
#include "disk.h"
#include "faults.h"
#include "guarded_buffers.h"
#include "loop.h"

namespace fake {

// Must outlive everything that uses it: Controls, rings, device nodes, Disks' I/O. Any thread.
class Driver final : public ublk::Driver, private Loop::Client {
 public:
  struct Options {
    uint64_t features = kLinux7_2;  // less what is not played
    unsigned cpus = 8;              // at most as many queues has a device
    // REGISTER_IO_BUF succeeds, for backends that move the data by user copy all the same. Else it
    // is ENOMEM.
    bool registers_buffers = false;
    // In copy mode, of a server that does not bring buffers of its own: those of idle tags can't be
    // accessed.
    bool guards_buffers = false;
  };

  // Throws std::system_error; EPERM: io_uring is forbidden here.
  Driver() : Driver(Options{}) {}
  explicit Driver(const Options& options);
  ~Driver() override;

  ublk::UniqueFd open_control() override;
  ublk::UniqueFd open_device(uint32_t device_id) override;
  void redirect(io_uring& ring, io_uring_sqe& sqe) override;

  // The disk of a started device; nullptr if there is none.
  std::shared_ptr<Disk> disk(uint32_t id);

  Faults& faults() { return faults_; }

  // Plays the end of one of the server's threads: idle tags are given back, no request is handed
  // out any more.
  void cancel_queues(uint32_t id);
  // Plays the end of the server, who lives on as far as the test goes: see Device::kill().
  void kill(uint32_t id);
  // The same for a server of all devices: whatever it still does is answered with ENODEV, so that
  // it can go as it likes, until it is buried and the next one may come. Then it must have closed
  // its nodes.
  void kill_server();
  void bury_server();

  // What the server did that a real kernel answers with a warning or worse. Should be empty.
  std::vector<std::string> violations();
  size_t nr_devices();

  // The SQEs that a thread, which is stopped at its io_uring_enter, gives to the kernel; nullopt:
  // it is no ring that the driver knows. Those of the driver's own ring are none of the server's.
  // `ring_fd`, `flags`: the call's; `thread`: its caller.
  std::optional<std::vector<io_uring_sqe*>> submission(int ring_fd, unsigned flags, pid_t thread) {
    return loop_.submission(ring_fd, flags, thread);
  }
  const GuardedBuffers& guarded_buffers() const { return guarded_buffers_; }

 private:
  void handle(Command& command) override;
  void readable() override;
  void disk_closed() override { remove_deleted(); }

  void execute(Command& command);
  void refuse(Command& command, int error);
  void cancel(Command& command);
  void control(Command& command);
  // 0 or -errno for commands that end at once, kWaits for those that answer by themselves.
  int control_result(Command& command);
  int device_command(Command& command, Device& device);
  int add(const ublk::abi::CtrlCmd& command);
  int remove(Command& command, Device& device);
  int stop(Command& command, Device& device);
  int queue_affinity(const ublk::abi::CtrlCmd& command, const Device& device) const;
  void remove_deleted();
  void release_closed();
  Device* find(uint32_t id);

  const Options options_;
  const uint32_t number_;        // of the fakes of this process
  ublk::UniqueFd closed_files_;  // inotify: a server's opening of a node ends
  NodeTable nodes_;
  GuardedBuffers guarded_buffers_;
  std::map<uint32_t, std::unique_ptr<Device>> devices_;  // the loop's thread's, as the rest
  std::map<int, uint32_t> watches_;                      // of closed_files_: whose node it is
  std::set<uint32_t> closing_;                           // devices whose node is being closed
  std::vector<std::string> violations_;
  bool server_dead_ = false;
  Loop loop_;
  Faults faults_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_DRIVER_H
