// SPDX-License-Identifier: MIT
#include "ownership.h"

#include <rbd/librbd.h>

#include <cerrno>
#include <exception>

#include "cluster.h"
#include "failure.h"

namespace rbd {

Ownership::Ownership(Image& image, const std::string& device, bool exclusive)
    : image_(image),
      exclusive_(exclusive),
      key_(owner_record_key(device)),
      boot_id_(this_boot_id()) {}

// The lock goes with the image. The record of another runner that has come meanwhile stays.
Ownership::~Ownership() {
  if (!taken_) return;
  try {
    if (read_record() != own_record()) return;
  } catch (const std::exception&) {
    // Then the successor of this device asks for it once more.
    return;
  }
  rbd_metadata_remove(image_.get(), key_.c_str());
}

OwnerRecord Ownership::own_record() const {
  return {boot_id_, image_.id(), image_.cluster().address()};
}

void Ownership::take() {
  if (exclusive_) lock();
  write_record();
  taken_ = true;
}

// A client of this process has closed the device in good order, and the record is not its any more.
void Ownership::take_over() {
  const std::optional<OwnerRecord> record = read_record();
  if (record && !Cluster::is_of_this_process(record->address)) {
    image_.cluster().blocklist(record->address);
    if (exclusive_ && lock_owner() == record->address) {
      const int error =
          rbd_lock_break(image_.get(), RBD_LOCK_MODE_EXCLUSIVE, record->address.c_str());
      if (error < 0 && error != -ENOENT)
        fail(error, image_.text() + ": can't break the lock of the dead client " + record->address);
    }
  }
  take();
}

std::string Ownership::lock_owner() const {
  rbd_lock_mode_t mode;
  char* owners[1] = {nullptr};
  size_t count = 1;
  const int error = rbd_lock_get_owners(image_.get(), &mode, owners, &count);
  if (error == -ENOENT) return "";
  if (error < 0) fail(error, image_.text() + ": can't ask for the owner of the exclusive lock");
  if (count == 0) return "";
  const std::string owner = owners[0];
  rbd_lock_get_owners_cleanup(owners, count);
  return owner;
}

// librbd asks a live owner for the lock, and breaks that of one that has vanished once the OSDs
// have noticed, some 30 seconds later.
void Ownership::lock() {
  const int error = rbd_lock_acquire(image_.get(), RBD_LOCK_MODE_EXCLUSIVE);
  if (error == 0) return;
  const std::string owner = lock_owner();
  if (owner.empty()) fail(error, image_.text() + ": can't get the exclusive lock");
  fail(EBUSY, image_.text() + ": the exclusive lock is held by " +
                  (Cluster::is_of_this_process(owner) ? "another device of this runner" : owner));
}

std::optional<OwnerRecord> Ownership::read_record() const {
  char value[512];
  size_t size = sizeof(value);
  const int error = rbd_metadata_get(image_.get(), key_.c_str(), value, &size);
  if (error == -ENOENT || error == -ERANGE) return std::nullopt;
  if (error < 0) fail(error, image_.text() + ": can't read its metadata");
  std::optional<OwnerRecord> record = OwnerRecord::parse(value);
  if (record && (record->boot_id != boot_id_ || record->image_id != image_.id()))
    return std::nullopt;
  return record;
}

void Ownership::write_record() {
  const int error = rbd_metadata_set(image_.get(), key_.c_str(), own_record().text().c_str());
  if (error < 0) fail(error, image_.text() + ": can't write its metadata");
}

}  // namespace rbd
