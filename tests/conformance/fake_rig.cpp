// SPDX-License-Identifier: MIT
// The in-process driver, as the kernel that UBLK_FAKE_KERNEL names: 6.12 or 7.2, the default.
#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>

#include "fake/device_limits.h"
#include "fake/driver.h"
#include "rig.h"

namespace conformance {

namespace {

class FakeDisk final : public Disk {
 public:
  explicit FakeDisk(std::shared_ptr<fake::Disk> disk) : disk_(std::move(disk)) {}
  int run(const Io& io) override {
    return disk_->run({.op = io.op,
                       .sector = io.sector,
                       .sectors = io.sectors,
                       .data = io.data,
                       .flags = io.fua ? ublk::abi::kIoFlagFua : 0});
  }
  uint64_t sectors() override { return disk_->sectors(); }

 private:
  const std::shared_ptr<fake::Disk> disk_;
};

uint64_t features() {
  const char* kernel = std::getenv("UBLK_FAKE_KERNEL");
  return kernel != nullptr && std::string(kernel) == "6.12" ? fake::kLinux6_12 : fake::kLinux7_2;
}

class FakeRig final : public Rig {
 public:
  FakeRig() {
    try {
      driver_.emplace(fake::Driver::Options{.features = features(), .cpus = kCpus});
    } catch (const std::system_error& e) {
      if (e.code().value() != EPERM && e.code().value() != ENOSYS) throw;
      missing_ = std::string("io_uring is not allowed here: ") + e.what();
    }
  }

  ublk::Driver& driver() override { return *driver_; }
  std::string missing() override { return missing_; }
  std::unique_ptr<Disk> open_disk(uint32_t id) override {
    auto disk = driver_->disk(id);
    return disk != nullptr ? std::make_unique<FakeDisk>(std::move(disk)) : nullptr;
  }
  unsigned cpus() const override { return kCpus; }
  bool has(const KernelBug&) const override { return false; }
  std::vector<std::string> complaints() override {
    if (!driver_) return {};
    std::vector<std::string> found = driver_->violations();
    if (driver_->nr_devices() != 0) found.emplace_back("a device was not deleted");
    return found;
  }

 private:
  static constexpr unsigned kCpus = 2;
  std::optional<fake::Driver> driver_;
  std::string missing_;
};

}  // namespace

std::unique_ptr<Rig> make_rig() { return std::make_unique<FakeRig>(); }

}  // namespace conformance
