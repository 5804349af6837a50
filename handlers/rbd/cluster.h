// SPDX-License-Identifier: MIT
//
// A client of a Ceph cluster. All devices of one configuration file and user share it: its threads,
// its connections, and its address, by which the cluster may refuse it (blocklist).
#ifndef UBLK_HANDLERS_RBD_CLUSTER_H
#define UBLK_HANDLERS_RBD_CLUSTER_H

#include <rados/librados.h>

#include <atomic>
#include <chrono>
#include <compare>
#include <memory>
#include <string>

namespace rbd {

// Who connects to what.
struct Identity {
  std::string conf;  // the path of ceph.conf
  std::string id;    // the user, without "client."

  auto operator<=>(const Identity&) const = default;
};

// Threads: any.
class Cluster {
 public:
  // The client that there is, or one that connects now. Several callers wait for one attempt; the
  // first one's limit counts. Blocks. Throws std::system_error with a text for the user.
  static std::shared_ptr<Cluster> shared(const Identity& identity, std::chrono::seconds limit);
  // Whether a client with this address is one of this process.
  static bool is_of_this_process(const std::string& address);

  Cluster(const Identity& identity, std::chrono::seconds limit);
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  rados_t get() const { return rados_; }
  const std::string& name() const { return name_; }        // "client.admin of /etc/ceph/ceph.conf"
  const std::string& address() const { return address_; }  // "192.0.2.1:0/123456789"

  // When it returns no OSD does anything any more that the client with this address has asked for.
  // Throws std::system_error.
  void blocklist(const std::string& address);

  // The cluster refuses this client: whoever opens a device from now on gets another one.
  void retire() { retired_.store(true, std::memory_order_relaxed); }

 private:
  void configure(const Identity& identity);
  [[noreturn]] void explain(int error, const Identity& identity) const;
  std::string setting(const char* name) const;

  const std::string name_;
  const std::chrono::seconds limit_;
  std::string address_;
  std::atomic<bool> retired_{false};
  rados_t rados_ = nullptr;
};

}  // namespace rbd

#endif  // UBLK_HANDLERS_RBD_CLUSTER_H
