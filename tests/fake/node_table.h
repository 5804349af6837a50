// SPDX-License-Identifier: MIT
// The nodes of a driver's devices by id, for any thread.
#ifndef UBLK_TESTS_FAKE_NODE_TABLE_H
#define UBLK_TESTS_FAKE_NODE_TABLE_H

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "node_file.h"

namespace fake {

class NodeTable {
 public:
  void add(uint32_t device, const std::shared_ptr<NodeFile>& node) {
    const std::lock_guard lock(mutex_);
    nodes_[device] = node;
  }
  // nullptr: there is no such device any more.
  std::shared_ptr<NodeFile> find(uint32_t device) {
    const std::lock_guard lock(mutex_);
    const auto found = nodes_.find(device);
    return found != nodes_.end() ? found->second.lock() : nullptr;
  }

 private:
  std::mutex mutex_;
  std::map<uint32_t, std::weak_ptr<NodeFile>> nodes_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_NODE_TABLE_H
