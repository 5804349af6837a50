// SPDX-License-Identifier: MIT
#include "cluster.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <sstream>
#include <utility>
#include <vector>

#include "failure.h"

namespace rbd {
namespace {

// Of one identity.
struct Slot {
  std::weak_ptr<Cluster> connected;
  std::shared_future<std::shared_ptr<Cluster>> attempt;  // valid while somebody connects
};

struct Registry {
  std::mutex mutex;
  std::map<Identity, Slot> slots;
};

Registry& registry() {
  static Registry all;
  return all;
}

// As Ceph's own programs do: "/etc/ceph/backup.conf" is of the cluster "backup", whose keyrings are
// beside it.
std::string cluster_name(const std::filesystem::path& conf) {
  return conf.extension() == ".conf" ? conf.stem().string() : "ceph";
}

// librados ends the process when it does not get a descriptor.
void expect_descriptors() {
  constexpr size_t kEnough = 128;
  std::vector<int> taken;
  int error = 0;
  while (error == 0 && taken.size() < kEnough) {
    const int fd = eventfd(0, EFD_CLOEXEC);
    if (fd < 0)
      error = errno;
    else
      taken.push_back(fd);
  }
  for (const int fd : taken) close(fd);
  if (error != 0)
    fail(error, "a client of Ceph may need " + std::to_string(kEnough) + " descriptors");
}

bool any_exists(const std::string& paths) {
  std::istringstream list(paths);
  std::error_code ignored;
  for (std::string path; std::getline(list, path, ',');)
    if (std::filesystem::exists(path, ignored)) return true;
  return false;
}

}  // namespace

std::shared_ptr<Cluster> Cluster::shared(const Identity& identity, std::chrono::seconds limit) {
  Registry& all = registry();
  std::shared_ptr<Cluster> cluster;  // destroyed, if it was the last, without the lock
  std::unique_lock lock(all.mutex);
  Slot& slot = all.slots[identity];
  cluster = slot.connected.lock();
  if (cluster != nullptr && !cluster->retired_.load(std::memory_order_relaxed)) return cluster;
  if (slot.attempt.valid()) {
    const auto attempt = slot.attempt;
    lock.unlock();
    return attempt.get();
  }
  std::promise<std::shared_ptr<Cluster>> promise;
  slot.attempt = promise.get_future().share();
  lock.unlock();
  try {
    cluster = std::make_shared<Cluster>(identity, limit);
  } catch (...) {
    promise.set_exception(std::current_exception());
    lock.lock();
    slot.attempt = {};
    throw;
  }
  promise.set_value(cluster);
  lock.lock();
  slot.connected = cluster;
  slot.attempt = {};
  lock.unlock();
  return cluster;
}

bool Cluster::is_of_this_process(const std::string& address) {
  std::shared_ptr<Cluster> cluster;
  const std::lock_guard lock(registry().mutex);
  for (const auto& [identity, slot] : registry().slots) {
    cluster = slot.connected.lock();
    if (cluster != nullptr && cluster->address() == address) return true;
  }
  return false;
}

Cluster::Cluster(const Identity& identity, std::chrono::seconds limit)
    : name_("client." + identity.id + " of " + identity.conf), limit_(limit) {
  expect_descriptors();
  const std::string user = "client." + identity.id;
  if (const int error =
          rados_create2(&rados_, cluster_name(identity.conf).c_str(), user.c_str(), 0);
      error < 0)
    fail(error, name_ + ": can't be made");
  try {
    configure(identity);
    if (const int error = rados_connect(rados_); error < 0) explain(error, identity);
    char* address = nullptr;
    if (const int error = rados_getaddrs(rados_, &address); error < 0)
      fail(error, name_ + ": has no address");
    address_ = address;
    rados_buffer_free(address);
  } catch (...) {
    rados_shutdown(rados_);
    throw;
  }
}

Cluster::~Cluster() { rados_shutdown(rados_); }

void Cluster::configure(const Identity& identity) {
  const std::string& conf = identity.conf;
  if (const int error = rados_conf_read_file(rados_, conf.c_str()); error < 0) {
    if (error == -ENOENT) fail(error, conf);
    fail(error, conf + ": can't be read as a configuration of Ceph");
  }
  const std::string seconds = std::to_string(limit_.count());
  const std::pair<const char*, const char*> settings[] = {
      {"client_mount_timeout", seconds.c_str()},
      {"rados_mon_op_timeout", seconds.c_str()},
      // What this process has confirmed must not be lost with it.
      {"rbd_cache", "false"},
      // A submit must not wait for anything: others are served by the same thread.
      {"rbd_non_blocking_aio", "true"},
      // Without the copy a write that fails before it is sent never ends, in Ceph 16.
      {"rbd_disable_zero_copy_writes", "true"},
      {"rbd_blocklist_on_break_lock", "true"},
      // Requests that wait for one pool must not hold up those of another, of other devices: there
      // are no more than fit into the devices' queues.
      {"objecter_inflight_ops", "0"},
      {"objecter_inflight_op_bytes", "0"},
  };
  for (const auto& [name, value] : settings)
    if (const int error = rados_conf_set(rados_, name, value); error < 0)
      fail(error, std::string("librados does not take ") + name + " = " + value);
}

// What it most likely means.
void Cluster::explain(int error, const Identity& identity) const {
  const std::string user = "client." + identity.id;
  const std::string monitors = setting("mon_host");
  const std::string keyring = setting("keyring");
  switch (-error) {
    case ETIMEDOUT:
      fail(error, "no monitor of " + identity.conf + " has answered within " +
                      std::to_string(limit_.count()) + " s (mon_host = " + monitors + ")");
    case EACCES:
    case EPERM:
      fail(error,
           "the monitors refuse " + user + "; does it exist, with the key of " + keyring + "?");
    case ENOENT:
      if (monitors.empty()) fail(error, identity.conf + ": names no monitors (mon_host)");
      if (!any_exists(keyring)) fail(error, "no key of " + user + ": looked for " + keyring);
      fail(error, "no key of " + user + " in " + keyring);
    default:
      fail(error, name_ + ": can't connect to " + monitors);
  }
}

std::string Cluster::setting(const char* name) const {
  char value[4096];
  return rados_conf_get(rados_, name, value, sizeof(value)) < 0 ? "" : value;
}

void Cluster::blocklist(const std::string& address) {
  std::string text = address;
  int error = rados_blocklist_add(rados_, text.data(), 0);
  if (error == 0) error = rados_wait_for_latest_osdmap(rados_);
  if (error == 0) return;
  fail(error, "the dead client " + address + " can't be blocklisted; " + name_ +
                  " needs the capability mon 'profile rbd'");
}

}  // namespace rbd
