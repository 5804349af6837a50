// SPDX-License-Identifier: MIT
#include "node_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

namespace fake {

namespace abi = ublk::abi;

namespace {

// Beyond the last byte of user copy; nothing of it costs memory before it is written.
constexpr off_t kFileSize = off_t{1} << 54;

constexpr char kNameFormat[] = "ublkc%u-driver%u";

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

struct flock whole_file(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

off_t data_offset(uint16_t queue, uint16_t tag) {
  return static_cast<off_t>(abi::user_copy_offset(queue, tag, 0));
}

}  // namespace

NodeFile::NodeFile(uint32_t driver, uint32_t device, uint16_t queues, uint16_t depth)
    : depth_(depth) {
  char name[64];
  std::snprintf(name, sizeof(name), kNameFormat, device, driver);
  fd_.reset(memfd_create(name, MFD_CLOEXEC));
  if (!fd_) fail("memfd_create");
  if (ftruncate(fd_.get(), kFileSize) != 0) fail("ftruncate of a memfd");
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto page_aligned = [page](size_t bytes) { return (bytes + page - 1) / page * page; };
  map_size_ = page_aligned(depth * sizeof(abi::IoDesc));
  const size_t stride = page_aligned(abi::kDescriptorStride);
  for (uint16_t queue = 0; queue < queues; ++queue) {
    void* map = mmap(nullptr, map_size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(),
                     static_cast<off_t>(queue * stride));
    if (map == MAP_FAILED) fail("mmap of a memfd");
    descriptors_.push_back(static_cast<abi::IoDesc*>(map));
  }
}

NodeFile::~NodeFile() {
  for (abi::IoDesc* map : descriptors_) munmap(map, map_size_);
}

ublk::UniqueFd NodeFile::open() const {
  if (is_open()) {
    errno = EBUSY;
    return {};
  }
  ublk::UniqueFd fd(::open(path().c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  struct flock lock = whole_file(F_WRLCK);
  if (fd && fcntl(fd.get(), F_OFD_SETLK, &lock) != 0) fd.reset();
  return fd;
}

bool NodeFile::is_open() const {
  struct flock lock = whole_file(F_WRLCK);
  if (fcntl(fd_.get(), F_OFD_GETLK, &lock) != 0) fail("F_OFD_GETLK");
  return lock.l_type != F_UNLCK;
}

void NodeFile::put_data(uint16_t queue, uint16_t tag, const std::byte* data, size_t bytes) {
  if (pwrite(fd_.get(), data, bytes, data_offset(queue, tag)) != static_cast<ssize_t>(bytes))
    fail("pwrite to a memfd");
}

void NodeFile::get_data(uint16_t queue, uint16_t tag, std::byte* data, size_t bytes) const {
  if (pread(fd_.get(), data, bytes, data_offset(queue, tag)) != static_cast<ssize_t>(bytes))
    fail("pread of a memfd");
}

std::string NodeFile::path() const { return "/proc/self/fd/" + std::to_string(fd_.get()); }

uint32_t NodeFile::device_of_path(const std::string& path, uint32_t driver) {
  const size_t begin = path.find("memfd:");
  uint32_t device = 0;
  uint32_t of_driver = 0;
  if (begin == std::string::npos ||
      std::sscanf(path.c_str() + begin + 6, kNameFormat, &device, &of_driver) != 2 ||
      of_driver != driver)
    return abi::kAnyDeviceId;
  return device;
}

}  // namespace fake
