// SPDX-License-Identifier: MIT
#include "backing.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "file_lock.h"

namespace file {
namespace {

constexpr uint32_t kMaxLogicalBlock = 4096;
constexpr uint32_t kMaxFileGranularity = 64u << 10;

std::string bytes(uint64_t n) { return std::to_string(n) + " bytes"; }

bool fits(uint64_t value, uint64_t most) { return std::has_single_bit(value) && value <= most; }

// A limit of the disk that a block device is, or is a partition of; 0 if there is none.
uint64_t queue_limit(dev_t device, const char* name) {
  const std::string disk =
      "/sys/dev/block/" + std::to_string(major(device)) + ':' + std::to_string(minor(device));
  for (const char* queue : {"/queue/", "/../queue/"}) {
    std::ifstream attribute(disk + queue + name);
    uint64_t value = 0;
    if (attribute >> value) return value;
  }
  return 0;
}

dev_t device_of(const std::string& path) {
  struct stat st;
  return stat(path.c_str(), &st) == 0 ? st.st_dev : 0;
}

}  // namespace

Backing::Backing(BackingOptions options) : options_(std::move(options)) {
  const bool created = !exists();
  if (created) create();
  try {
    open_to_measure();
    if (block_device_)
      measure_block_device();
    else
      measure_file();
    if (options_.direct) measure_direct();
    if (limits_.logical_block > kMaxLogicalBlock)
      refuse("needs blocks of " + bytes(limits_.logical_block) + ", a device has at most " +
             std::to_string(kMaxLogicalBlock));
    settle_size();
    acquire();
  } catch (...) {
    if (created) unlink(options_.path.c_str());
    throw;
  }
}

void Backing::fail(int error, const std::string& what) const {
  throw std::system_error(error, std::generic_category(), options_.path + ": " + what);
}

void Backing::refuse(const std::string& what) const {
  throw std::invalid_argument(options_.path + ": " + what);
}

// Looks before it opens: to open a FIFO waits for its other end, to open a tape rewinds it.
bool Backing::exists() const {
  struct stat st;
  if (stat(options_.path.c_str(), &st) == 0) {
    if (S_ISDIR(st.st_mode)) refuse("is a directory; expected a file or a block device");
    if (S_ISCHR(st.st_mode)) refuse("is a character device; expected a file or a block device");
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
      refuse("is neither a file nor a block device");
    return true;
  }
  if (errno != ENOENT) fail(errno, "cannot be looked at");
  if (!options_.create) fail(ENOENT, "cannot be opened (create = true would make it)");
  return false;
}

void Backing::create() {
  if (!options_.size) refuse("does not exist, and create = true needs a size to make it");
  if (options_.read_only) fail(ENOENT, "is not created for a read-only device");
  if (options_.recovering)
    fail(ENOENT, "held the data of this device and is gone; an empty one is not put in its place");
  const std::string folder = std::filesystem::path(options_.path).parent_path().string();
  if (device_of(folder) == device_of("/dev"))
    fail(ENOENT, "is not created, since it would be a plain file among the device nodes");

  const ublk::UniqueFd made(
      ::open(options_.path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
  if (!made) fail(errno, "cannot be created");
  // The name must be as durable as what will be flushed to the file.
  const ublk::UniqueFd parent(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent) fsync(parent.get());
}

ublk::UniqueFd Backing::open(int more_flags) const {
  const int flags = (options_.read_only ? O_RDONLY : O_RDWR) | (options_.direct ? O_DIRECT : 0);
  return ublk::UniqueFd(::open(options_.path.c_str(), flags | more_flags | O_CLOEXEC));
}

void Backing::open_to_measure() {
  fd_ = open(0);
  if (!fd_) {
    if (errno == EINVAL && options_.direct) fail(errno, "cannot be opened with direct = true");
    fail(errno, options_.read_only ? "cannot be opened for reading"
                                   : "cannot be opened for reading and writing");
  }
  struct stat st;
  if (fstat(fd_.get(), &st) != 0) fail(errno, "fstat");
  block_device_ = S_ISBLK(st.st_mode);
}

// For a file system that doesn't say whether it would block io_uring has a thread of the kernel
// wait for each request, unless the file is O_NONBLOCK, and for writes O_DIRECT, which the tmpfs of
// Linux 6.6 takes. Neither changes anything else there: tmpfs has its data in the page cache, and
// waits only for what is swapped out.
static void serve_tmpfs_without_threads(int fd) {
  struct statfs file_system;
  if (fstatfs(fd, &file_system) != 0 || file_system.f_type != TMPFS_MAGIC) return;
  const int flags = fcntl(fd, F_GETFL) | O_NONBLOCK;
  if (fcntl(fd, F_SETFL, flags | O_DIRECT) != 0) fcntl(fd, F_SETFL, flags);
}

void Backing::measure_file() {
  serve_tmpfs_without_threads(fd_.get());
  struct stat st;
  if (fstat(fd_.get(), &st) != 0) fail(errno, "fstat");
  const auto block = static_cast<uint64_t>(st.st_blksize);
  if (fits(block, kMaxFileGranularity)) {
    limits_.discard_granularity = static_cast<uint32_t>(std::max<uint64_t>(block, 512));
    if (block > limits_.physical_block) limits_.io_opt = static_cast<uint32_t>(block);
  }
  if (!options_.read_only) limits_.can_discard = can_punch_holes();
}

// Tried past the end of the file, where there is no data: so far that who is just writing the file,
// and whom this waits for, has not come there, since no write has more than 2 GiB. Nearer only
// where a file can't be that large.
bool Backing::can_punch_holes() const {
  constexpr uint64_t kFar = uint64_t{4} << 30;
  const uint64_t end = (file_size() / kMaxFileGranularity + 1) * kMaxFileGranularity;
  for (const uint64_t start : {end + kFar, end}) {
    if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(start),
                  kMaxFileGranularity) == 0)
      return true;
    if (errno != EFBIG) return false;
  }
  return false;
}

// What O_DIRECT asks of offsets and buffers. Filesystems that do not tell get whole 4096-byte
// blocks: to try out less could succeed in a hole and fail elsewhere.
void Backing::measure_direct() {
  struct stat st;
  if (fstat(fd_.get(), &st) != 0) fail(errno, "fstat");
  limits_.stable_writes = queue_limit(block_device_ ? st.st_rdev : st.st_dev, "stable_writes") != 0;
  uint32_t offset_alignment = kMaxLogicalBlock;
  limits_.dma_alignment = 512;
  struct statx stx {};
  if (statx(fd_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
      (stx.stx_mask & STATX_DIOALIGN)) {
    if (stx.stx_dio_offset_align == 0)
      fail(EOPNOTSUPP, "direct = true, which its filesystem cannot do");
    offset_alignment = stx.stx_dio_offset_align;
    limits_.dma_alignment = std::clamp<uint32_t>(stx.stx_dio_mem_align, 4, 4096);
  } else if (block_device_) {
    offset_alignment = limits_.logical_block;
  }
  limits_.logical_block = std::max(limits_.logical_block, offset_alignment);
  limits_.physical_block = std::max(limits_.physical_block, limits_.logical_block);
  limits_.discard_granularity = std::max(limits_.discard_granularity, limits_.logical_block);
}

void Backing::measure_block_device() {
  struct stat st;
  int logical = 0;
  unsigned physical = 0;
  unsigned io_min = 0;
  unsigned io_opt = 0;
  unsigned short rotational = 0;
  const int fd = fd_.get();
  if (fstat(fd, &st) != 0 || ioctl(fd, BLKSSZGET, &logical) != 0 ||
      ioctl(fd, BLKPBSZGET, &physical) != 0)
    fail(errno, "cannot be asked for its block size");
  // Each write to it would fail. But who used it before that can go on reading.
  int write_protected = 0;
  if (!options_.read_only && !options_.recovering && ioctl(fd, BLKROGET, &write_protected) == 0 &&
      write_protected != 0)
    refuse("is write-protected; read_only = true would serve it");
  ioctl(fd, BLKIOMIN, &io_min);
  ioctl(fd, BLKIOOPT, &io_opt);
  ioctl(fd, BLKROTATIONAL, &rotational);
  limits_.logical_block = static_cast<uint32_t>(logical);
  limits_.physical_block = std::max<uint32_t>(physical, limits_.logical_block);
  limits_.io_min = std::has_single_bit(io_min) ? std::max(io_min, limits_.physical_block)
                                               : limits_.physical_block;
  limits_.io_opt = std::has_single_bit(io_opt) ? io_opt : 0;
  limits_.rotational = rotational != 0;

  const uint64_t granularity = queue_limit(st.st_rdev, "discard_granularity");
  limits_.can_discard = !options_.read_only && queue_limit(st.st_rdev, "discard_max_bytes") > 0;
  limits_.discard_granularity = limits_.logical_block;
  if (fits(granularity, std::numeric_limits<uint32_t>::max()))
    limits_.discard_granularity =
        std::max(static_cast<uint32_t>(granularity), limits_.logical_block);
}

uint64_t Backing::file_size() const {
  uint64_t size = 0;
  if (block_device_) {
    if (ioctl(fd_.get(), BLKGETSIZE64, &size) != 0) fail(errno, "cannot be asked for its size");
    return size;
  }
  struct stat st;
  if (fstat(fd_.get(), &st) != 0) fail(errno, "fstat");
  return static_cast<uint64_t>(st.st_size);
}

// Decides the device's size; the file is not changed yet.
void Backing::settle_size() {
  const uint64_t block = limits_.logical_block;
  const uint64_t available = file_size();
  if (options_.offset % block != 0)
    refuse("offset is " + bytes(options_.offset) + ", expected a multiple of the block size, " +
           std::to_string(block));
  if (options_.size) {
    size_ = *options_.size;
    if (size_ == 0 || size_ % block != 0)
      refuse("size is " + bytes(size_) + ", expected a multiple of the block size, " +
             std::to_string(block));
    constexpr auto kLongest = static_cast<uint64_t>(std::numeric_limits<off_t>::max());
    if (options_.offset > kLongest || size_ > kLongest - options_.offset)
      refuse("offset and size add up to more than a file can have");
    return;
  }
  if (options_.create) refuse("create = true needs a size");
  if (options_.offset >= available)
    refuse("offset is " + bytes(options_.offset) + ", but the file has only " + bytes(available));
  ignored_tail_ = (available - options_.offset) % block;
  size_ = available - options_.offset - ignored_tail_;
  if (size_ == 0)
    refuse("has " + bytes(available - options_.offset) +
           " from the offset on, less than a block of " + std::to_string(block));
}

bool Backing::acquire() {
  if (acquired_) return true;
  if (!lock()) return false;
  if (block_device_ && !options_.read_only && !claimed_) {
    claim();
    if (!lock()) return false;
  }
  grow();
  acquired_ = true;
  return true;
}

bool Backing::lock() const {
  try {
    return try_lock(fd_.get(), !options_.read_only);
  } catch (const std::system_error& e) {
    fail(e.code().value(), "cannot be locked");
  }
}

// Opens a block device anew, as its only user. The claim keeps others from mounting it, and only
// through a claimed descriptor does the kernel zero a range that is dirty in the page cache. A dead
// predecessor's claim lasts as long as its lock, which therefore comes first: without it, who has
// the device is not known.
void Backing::claim() {
  ublk::UniqueFd claimed = open(O_EXCL);
  if (!claimed) fail(errno, "is in use, by a mount maybe");
  fd_ = std::move(claimed);
  claimed_ = true;
}

void Backing::grow() {
  const uint64_t end = options_.offset + size_;
  const uint64_t available = file_size();
  if (available >= end) return;
  const std::string lack = "has " + bytes(available) + ", the device needs " + bytes(end);
  if (block_device_) refuse(lack);
  if (!options_.create || options_.read_only)
    refuse(lack + " (create = true would let a writable device make it longer)");
  if (ftruncate(fd_.get(), static_cast<off_t>(end)) != 0 || fsync(fd_.get()) != 0)
    fail(errno, "cannot be made " + bytes(end) + " long");
}

}  // namespace file
