// SPDX-License-Identifier: MIT
//
// A disk in memory, served by coroutines. What a read awaits is the option "scene": "disk" is what
// it should be, the others try one thing each.
//
//   COROUTINES_MOVE_DATA   the data of "disk" is moved by the host's functions
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <sys/mman.h>
#include <ublk/unique_fd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <ublk/handler.hpp>
#include <utility>
#include <variant>

namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using ublk::Io;
using ublk::Task;

class Coroutines final : public ublk::CoroutineHandler {
 public:
  static constexpr const char* kName = COROUTINES_NAME;
  static constexpr const char* kSummary = "a disk of coroutines for tests";
  static constexpr ublk_model kModel = UBLK_MODEL_RING;
  static constexpr uint32_t kScratchSize = sizeof(uint32_t);
  static constexpr uint32_t kFrameSize = 2048;
#ifdef COROUTINES_MOVE_DATA
  static constexpr bool kMovesData = true;
#endif
  static constexpr ublk_option kOptions[] = {
      ublk::size_option("size", "Size of the device.", {.default_value = "1M"}),
      ublk::choice_option("io", "ring|workers", "Where requests are served.",
                          {.default_value = "ring"}),
      ublk::string_option("scene", "What a read does.", {.default_value = "disk"}),
      ublk::size_option("scene_at", "Which read; 0: each.", {.default_value = "0"}),
      ublk::path_option("fifo", "What is polled."),
      ublk::integer_option("depth", "Of nested coroutines.", {.default_value = "3"}),
      ublk::path_option("alive", "A file that is there while the instance is."),
  };

  explicit Coroutines(const ublk::OpenArgs& args)
      : size_(args.number("size")),
        on_workers_(args.text("io") == "workers"),
        scene_at_(args.number("scene_at")),
        depth_(static_cast<unsigned>(args.number("depth"))),
        alive_(args.text("alive")),
        fd_(memfd_create("disk", MFD_CLOEXEC)),
        fifo_(open(args.text("fifo").c_str(), O_RDWR | O_CLOEXEC)) {
    for (const Scene& scene : kScenes)
      if (args.text("scene") == scene.name) read_ = scene.read;
    if (read_ == nullptr) throw std::invalid_argument("no scene " + args.text("scene"));
    if (!fd_ || ftruncate(fd_.get(), static_cast<off_t>(size_)) != 0)
      throw std::system_error(errno, std::generic_category(), "memfd");
    // Never a file of somebody else, who would lose it at the end.
    if (!alive_.empty() &&
        !ublk::UniqueFd(open(alive_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600)))
      throw std::system_error(errno, std::generic_category(), alive_);
    void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
    memory_ = static_cast<std::byte*>(memory);
  }
  ~Coroutines() override {
    munmap(memory_, size_);
    if (!alive_.empty()) unlink(alive_.c_str());
  }

  void geometry(ublk_geometry& geometry) override {
    geometry.size = size_;
    if (on_workers_) geometry.model = UBLK_MODEL_WORKERS;
  }

  Task<int> read(Io& io) override {
    return scene_at_ == 0 || scene_at_ == io.offset() ? (this->*read_)(io) : disk(io);
  }
#ifdef COROUTINES_MOVE_DATA
  Task<int> write(Io& io) override { return move(io); }
#else
  Task<int> write(Io& io) override {
    const int error = co_await nap(io);
    if (error != 0) co_return error;
    co_return co_await io.write(fd_.get(), io.data(), io.length(), io.offset());
  }
#endif
  Task<int> flush(Io& io) override { co_return co_await io.fsync(fd_.get()); }
  Task<int> discard(Io& io) override { return zero(io); }
  Task<int> write_zeroes(Io& io) override { return zero(io); }

 private:
  using Read = Task<int> (Coroutines::*)(Io&) const;
  struct Scene {
    const char* name;
    Read read;
  };

  Task<int> zero(Io& io) const {
    co_return co_await io.fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    io.offset(), io.length());
  }
  Task<int> nap(Io& io) const { co_return co_await io.nop(); }
  Task<int> read_part(Io& io, uint32_t from, uint32_t length) const {
    const int error = co_await nap(io);
    if (error != 0) co_return error;
    co_return co_await io.read(fd_.get(), io.data() + from, length, io.offset() + from);
  }
  // `n` bytes, a negative error, or that they are not what was expected.
  static int check(const Io& io, bool as_expected) {
    return as_expected ? static_cast<int>(io.length()) : -EBADMSG;
  }

#ifdef COROUTINES_MOVE_DATA
  Task<int> move(Io& io) const {
    co_return co_await io.move_data(memory_ + io.offset(), io.length(), 0);
  }
  Task<int> disk(Io& io) const { return move(io); }
#else
  // Two halves at once.
  Task<int> disk(Io& io) const {
    const uint32_t half = io.length() / 2;
    const auto [first, second] = co_await ublk::when_all(
        read_part(io, 0, half),
        io.read(fd_.get(), io.data() + half, io.length() - half, io.offset() + half));
    if (first < 0 || second < 0) co_return std::min(first, second);
    co_return first + second;
  }
#endif

  Task<int> at_once(Io& io) const { return io.length(); }

  Task<int> nop(Io& io) const { co_return check(io, co_await io.nop() == 0); }

  Task<int> sleep(Io& io) const {
    const auto begin = std::chrono::steady_clock::now();
    const int slept = co_await io.sleep(milliseconds(2));
    const auto took = std::chrono::steady_clock::now() - begin;
    const int not_slept = co_await io.sleep(milliseconds(-5));
    co_return check(io, slept == 0 && took >= milliseconds(2) && not_slept == 0);
  }

  Task<int> poll(Io& io) const {
    const int events = co_await io.poll(fifo_.get(), POLLIN);
    if (events < 0) co_return events;
    co_return check(io, events == POLLIN);
  }

  Task<int> errors(Io& io) const {
    const int read = co_await io.read(-1, io.data(), io.length(), 0);
    const int poll = co_await io.poll(-1, POLLIN);
    const int sync = co_await io.fdatasync(-1);
    const int discard = co_await io.discard(fd_.get(), 0, 4096);
    const int write = co_await io.write(fd_.get(), io.data(), 1, 0, 1 << 30);
    co_return check(io, read == -EBADF && poll == -EBADF && sync == -EBADF && discard < 0 &&
                            write == -EOPNOTSUPP);
  }

  // An SQE of the author's own.
  Task<int> own_sqe(Io& io) const {
    co_return co_await io.submit([this, &io](io_uring_sqe& sqe) {
      sqe.opcode = IORING_OP_READ;
      sqe.fd = fd_.get();
      sqe.addr = reinterpret_cast<uintptr_t>(io.data());
      sqe.len = io.length();
      sqe.off = io.offset();
    });
  }

  // As many as turn out to be needed.
  Task<int> tasks(Io& io) const {
    const uint32_t part = io.length() / 4;
    std::array parts = {read_part(io, 0, part), read_part(io, part, part),
                        read_part(io, 2 * part, part), read_part(io, 3 * part, part)};
    co_await ublk::when_all(parts);
    int sum = 0;
    for (Task<int>& each : parts) {
      const int n = co_await each;
      sum += n;
    }
    co_return sum;
  }

  Task<int> throws(Io& io) const {
    co_await io.nop();
    throw std::runtime_error("thrown");
  }
  Task<int> throws_at_once(Io&) const { throw std::runtime_error("thrown"); }
  Task<int> catches(Io& io) const {
    int caught = 0;
    try {
      co_await throws(io);
    } catch (const std::runtime_error&) {
      ++caught;
    }
    try {
      co_await ublk::when_all(io.nop(), throws(io), nap(io));
    } catch (const std::runtime_error&) {
      ++caught;
    }
    co_return check(io, caught == 2);
  }

  Task<unsigned> depth_below(Io& io, unsigned depth) const {
    const int error = co_await io.nop();
    if (error != 0 || depth == 0) co_return 0;
    const unsigned below = co_await depth_below(io, depth - 1);
    co_return below + 1;
  }
  Task<int> nests(Io& io) const {
    const unsigned depth = co_await depth_below(io, depth_);
    co_return check(io, depth == depth_);
  }

  Task<void> count_down(Io& io, unsigned& left) const {
    co_await io.nop();
    --left;
  }
  // Frames that end in another order than they began, and one that never runs.
  Task<int> frames(Io& io) const {
    unsigned left = 600;
    while (left > 0) {
      std::optional<Task<void>> first(count_down(io, left));
      std::optional<Task<void>> second(count_down(io, left));
      const Task<void> never = count_down(io, left);
      co_await *second;
      co_await *first;
      first.reset();
      std::optional<Task<void>> third(count_down(io, left));
      second.reset();
      co_await *third;
    }
    unsigned last = 1;
    const auto [nothing, nop] = co_await ublk::when_all(count_down(io, last), io.nop());
    static_assert(std::is_same_v<decltype(nothing), const std::monostate>);
    co_return check(io, left == 0 && last == 0 && nop == 0);
  }

  Task<int> forever(Io& io) const {
    const auto [polled, slept] =
        co_await ublk::when_all(io.poll(fifo_.get(), POLLIN), io.sleep(hours(1)));
    const int read = co_await io.read(fd_.get(), io.data(), io.length(), 0);
    const bool cancelled = polled == -ECANCELED && slept == -ECANCELED && read == -ECANCELED;
    co_return cancelled ? -ECANCELED : -EBADMSG;
  }
  Task<int> sleeps_forever(Io& io) const { co_return co_await io.sleep(hours(1)); }

  // Does not take it for an answer for a while.
  Task<int> stubborn(Io& io) const {
    for (int i = 0; i < 1000; ++i) {
      const int result = co_await sleeps_forever(io);
      if (result != -ECANCELED) co_return -EBADMSG;
    }
    co_return -ECANCELED;
  }

  // Tells how many requests the tag has had.
  Task<int> count(Io& io) const {
    co_await io.nop();
    io.data()[0] = static_cast<std::byte>(++io.scratch<uint32_t>());
    co_return io.length();
  }

  static constexpr Scene kScenes[] = {
      {"disk", &Coroutines::disk},
      {"at_once", &Coroutines::at_once},
      {"nop", &Coroutines::nop},
      {"sleep", &Coroutines::sleep},
      {"poll", &Coroutines::poll},
      {"errors", &Coroutines::errors},
      {"own_sqe", &Coroutines::own_sqe},
      {"tasks", &Coroutines::tasks},
      {"throws", &Coroutines::throws},
      {"throws_at_once", &Coroutines::throws_at_once},
      {"catches", &Coroutines::catches},
      {"nests", &Coroutines::nests},
      {"frames", &Coroutines::frames},
      {"forever", &Coroutines::forever},
      {"sleeps_forever", &Coroutines::sleeps_forever},
      {"stubborn", &Coroutines::stubborn},
      {"count", &Coroutines::count},
  };

  const uint64_t size_;
  const bool on_workers_;
  const uint64_t scene_at_;
  const unsigned depth_;
  const std::string alive_;
  const ublk::UniqueFd fd_;
  const ublk::UniqueFd fifo_;
  std::byte* memory_ = nullptr;
  Read read_ = nullptr;
};

}  // namespace

UBLK_HANDLER(Coroutines)
