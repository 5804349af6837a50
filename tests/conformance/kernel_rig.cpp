// SPDX-License-Identifier: MIT
// The running kernel's driver, and its /dev/ublkbN.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "rig.h"

namespace conformance {

namespace {

using ublk::Operation;
using ublk::abi::kSectorSize;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

class KernelDisk final : public Disk {
 public:
  explicit KernelDisk(ublk::UniqueFd fd) : fd_(std::move(fd)) {}

  int run(const Io& io) override {
    switch (io.op) {
      case Operation::kRead:
      case Operation::kWrite:
        return transfer(io);
      case Operation::kFlush:
        return fsync(fd_.get()) == 0 ? 0 : -errno;
      case Operation::kDiscard:
        return range(io, BLKDISCARD);
      case Operation::kWriteZeroes:
        return range(io, BLKZEROOUT);
      default:
        return -EOPNOTSUPP;
    }
  }

  uint64_t sectors() override {
    uint64_t bytes = 0;
    return ioctl(fd_.get(), BLKGETSIZE64, &bytes) == 0 ? bytes / kSectorSize : 0;
  }

 private:
  int transfer(const Io& io) const {
    constexpr size_t kPage = 4096;
    const size_t bytes = size_t{io.sectors} * kSectorSize;
    const std::unique_ptr<void, Free> memory(
        std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage));
    const iovec part = {memory.get(), bytes};
    const auto offset = static_cast<off_t>(io.sector * kSectorSize);
    ssize_t done = 0;
    if (io.op == Operation::kWrite) {
      std::memcpy(memory.get(), io.data, bytes);
      done = pwritev2(fd_.get(), &part, 1, offset, io.fua ? RWF_DSYNC : 0);
    } else {
      done = preadv(fd_.get(), &part, 1, offset);
    }
    if (done < 0) return -errno;
    if (static_cast<size_t>(done) != bytes) return -EIO;  // there are no more bytes
    if (io.op == Operation::kRead) std::memcpy(io.data, memory.get(), bytes);
    return 0;
  }

  int range(const Io& io, unsigned long request) const {
    uint64_t bounds[2] = {io.sector * kSectorSize, uint64_t{io.sectors} * kSectorSize};
    return ioctl(fd_.get(), request, bounds) == 0 ? 0 : -errno;
  }

  const ublk::UniqueFd fd_;
};

class KernelRig final : public Rig {
 public:
  KernelRig() {
    utsname name{};
    uname(&name);
    release_ = name.release;
  }

  ublk::Driver& driver() override { return ublk::Driver::kernel(); }
  std::string missing() override { return {}; }
  std::unique_ptr<Disk> open_disk(uint32_t id) override {
    const std::string path = ublk::abi::kBlockDevicePrefix + std::to_string(id);
    ublk::UniqueFd fd(open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    if (!fd) fd.reset(open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    return fd ? std::make_unique<KernelDisk>(std::move(fd)) : nullptr;
  }
  unsigned cpus() const override { return static_cast<unsigned>(sysconf(_SC_NPROCESSORS_CONF)); }
  bool has(const KernelBug& bug) const override {
    std::istringstream kernels(bug.kernels);
    for (std::string prefix; kernels >> prefix;)
      if (release_.rfind(prefix, 0) == 0) return true;
    return false;
  }
  std::vector<std::string> complaints() override {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator("/dev"))
      if (entry.path().filename().string().rfind("ublkc", 0) == 0)
        found.push_back(entry.path().string() + " was not deleted");
    return found;
  }

 private:
  std::string release_;
};

}  // namespace

std::unique_ptr<Rig> make_rig() { return std::make_unique<KernelRig>(); }

}  // namespace conformance
