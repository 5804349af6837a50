// SPDX-License-Identifier: MIT
#include "handler_host.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>

struct ublk_device {
  test::Device* device;
};
struct ublk_queue {
  test::Queue* queue;
};

namespace test {
namespace {

using std::chrono::nanoseconds;
using std::chrono::steady_clock;

std::byte* map_buffer() {
  void* memory =
      mmap(nullptr, Queue::kBufferSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  return static_cast<std::byte*>(memory);
}

uint64_t parse_number(const std::string& text, bool with_suffix) {
  char* end = nullptr;
  const uint64_t number = std::strtoull(text.c_str(), &end, 10);
  const std::string suffixes = "KMGTP";
  const size_t power = *end != '\0' ? suffixes.find(*end) : std::string::npos;
  if (end == text.c_str() || (*end != '\0' && (!with_suffix || power == std::string::npos)))
    throw std::invalid_argument("bad number: " + text);
  return power == std::string::npos ? number : number << (10 * (power + 1));
}

// The value of one option; `text` is nullptr if there is none.
ublk_option_value parse_option(const ublk_option& option, const char* text) {
  ublk_option_value value{};
  if (text == nullptr) {
    if (option.flags & UBLK_OPTION_REQUIRED)
      throw std::invalid_argument(std::string("option missing: ") + option.name);
    return value;
  }
  value.is_set = 1;
  value.text = text;
  switch (option.type) {
    case UBLK_OPTION_BOOL:
      value.boolean = std::string("true") == text;
      break;
    case UBLK_OPTION_INTEGER:
    case UBLK_OPTION_SIZE:
      value.number = parse_number(text, option.type == UBLK_OPTION_SIZE);
      if (value.number < option.minimum || (option.maximum != 0 && value.number > option.maximum))
        throw std::invalid_argument(std::string("out of range: ") + option.name);
      break;
    default:
      break;
  }
  return value;
}

std::vector<ublk_option_value> parse_options(const ublk_handler& handler, const Options& options) {
  std::vector<ublk_option_value> values;
  size_t known = 0;
  for (uint32_t i = 0; i < handler.nr_options; ++i) {
    const ublk_option& option = handler.options[i];
    const auto found = options.find(option.name);
    known += found != options.end();
    values.push_back(parse_option(
        option, found != options.end() ? found->second.c_str() : option.default_value));
  }
  if (known != options.size()) throw std::invalid_argument("an option that the handler has not");
  return values;
}

}  // namespace

// ----------------------------------------------------------------- library --

std::string HandlerLibrary::path(const std::string& name) {
  const char* folder = std::getenv("UBLK_TEST_HANDLER_DIR");
  return std::string(folder != nullptr ? folder : UBLK_TEST_HANDLER_DIR) + "/handler_" + name +
         ".so";
}

HandlerLibrary::HandlerLibrary(const std::string& name)
    : library_(dlopen(path(name).c_str(), RTLD_NOW | RTLD_LOCAL)), table_(nullptr) {
  if (library_ == nullptr) throw std::runtime_error(dlerror());
  const auto entry =
      reinterpret_cast<ublk_handler_entry_fn>(dlsym(library_, UBLK_HANDLER_ENTRY_NAME));
  if (entry != nullptr) table_ = entry();
  if (table_ == nullptr || table_->abi_version != UBLK_HANDLER_ABI_VERSION ||
      table_->struct_size != sizeof(ublk_handler) || name != table_->name) {
    dlclose(library_);
    throw std::runtime_error(name + " is no handler of this ABI");
  }
}

HandlerLibrary::~HandlerLibrary() { dlclose(library_); }

// ------------------------------------------------------------------- queue --

struct Queue::Slot {
  enum class State { kIdle, kWaiting, kDone };
  ublk_request request{};
  State state = State::kIdle;
  int result = 0;
  Queue* queue = nullptr;
  std::byte* buffer = map_buffer();
  void* scratch = nullptr;
  bool fresh = true;   // the buffer is another one than at the last request
  std::thread worker;  // WORKERS: that serves the request

  Slot() = default;
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() {
    if (worker.joinable()) worker.join();
    munmap(buffer, kBufferSize);
    std::free(scratch);
  }
};

// The functions of ublk_host.
struct HostCalls {
  static std::string format_text(const char* format, va_list arguments) {
    std::string text(1024, '\0');
    // NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): the caller has started it
    const int n = vsnprintf(text.data(), text.size(), format, arguments);
    text.resize(std::min<size_t>(static_cast<size_t>(n), text.size() - 1));
    return text;
  }

  __attribute__((format(printf, 3, 4))) static void log(ublk_device* device, uint32_t level,
                                                        const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    {
      const std::lock_guard lock(device->device->log_mutex_);
      device->device->log.push_back(std::to_string(level) + ' ' + format_text(format, arguments));
    }
    va_end(arguments);
  }

  __attribute__((format(printf, 2, 3))) static void set_error(ublk_device* device,
                                                              const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    device->device->error_text_ = format_text(format, arguments);
    va_end(arguments);
  }

  static int complete(uint64_t id, int32_t result) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the id is the host's to choose
    auto& slot = *reinterpret_cast<Queue::Slot*>(static_cast<uintptr_t>(id));
    if (slot.state != Queue::Slot::State::kWaiting) {
      ++slot.queue->device_.wrong_completions;
      return -EALREADY;
    }
    slot.result = result;
    slot.state = Queue::Slot::State::kDone;
    return 0;
  }

  // The queue, for what belongs to its thread. What is thrown here is the request's error.
  static Queue& on_its_thread(ublk_queue* queue) {
    if (queue->queue->device_.on_workers())
      throw std::logic_error("a worker uses the ring or a timer");
    return *queue->queue;
  }

  static io_uring_sqe* get_sqe(ublk_queue* queue) { return on_its_thread(queue).get_sqe(); }

  static void reserve_sqes(ublk_queue* queue, uint32_t count) {
    Queue& q = on_its_thread(queue);
    if (io_uring_sq_space_left(&q.ring_) < count) q.submit_sqes();
  }

  static void set_timer(ublk_queue* queue, ublk_timer* timer, uint64_t delay) {
    on_its_thread(queue).timers_[timer] = steady_clock::now() + nanoseconds(delay);
  }

  static void cancel_timer(ublk_queue* queue, ublk_timer* timer) {
    on_its_thread(queue).timers_.erase(timer);
  }

  static void size_changed(ublk_device*, uint64_t) {}
  __attribute__((format(printf, 2, 3))) static void set_trouble(ublk_device* device,
                                                                const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    {
      const std::lock_guard lock(device->device->log_mutex_);
      device->device->trouble = format_text(format, arguments);
    }
    va_end(arguments);
  }
  static void queue_closed(ublk_queue* queue) { on_its_thread(queue).closed_ = true; }
  // Every request has a buffer here.
  static int32_t read_data(const ublk_request* request, void* to, uint32_t length,
                           uint32_t offset) {
    std::memcpy(to, static_cast<const std::byte*>(request->buffer) + offset, length);
    return static_cast<int32_t>(length);
  }
  static int32_t write_data(const ublk_request* request, const void* from, uint32_t length,
                            uint32_t offset) {
    std::memcpy(static_cast<std::byte*>(request->buffer) + offset, from, length);
    return static_cast<int32_t>(length);
  }
  static int32_t move_on_ring(ublk_queue*, const ublk_request* request, void* memory,
                              uint32_t length, uint32_t offset, ublk_event*) {
    return request->op == UBLK_OP_WRITE ? read_data(request, memory, length, offset)
                                        : write_data(request, memory, length, offset);
  }
  static uint32_t queue_index(const ublk_queue* queue) { return queue->queue->index_; }
  static void* queue_data(const ublk_queue* queue) { return queue->queue->data_; }

  static const ublk_host& host() {
    static constexpr ublk_host kHost = {
        .abi_version = UBLK_HANDLER_ABI_VERSION,
        .struct_size = sizeof(ublk_host),
        .log = log,
        .set_error = set_error,
        .complete = complete,
        .get_sqe = get_sqe,
        .reserve_sqes = reserve_sqes,
        .set_timer = set_timer,
        .cancel_timer = cancel_timer,
        .size_changed = size_changed,
        .queue_closed = queue_closed,
        .read_data = read_data,
        .write_data = write_data,
        .move_on_ring = move_on_ring,
        .queue_index = queue_index,
        .queue_data = queue_data,
        .set_trouble = set_trouble,
    };
    return kHost;
  }
};

Queue::Queue(Device& device, uint32_t index)
    : device_(device), index_(index), handle_(new ublk_queue{this}) {
  const int error = io_uring_queue_init(64, &ring_, 0);
  if (error != 0) throw std::system_error(-error, std::generic_category(), "io_uring");
  const ublk_handler& handler = device.library_.table();
  for (uint16_t tag = 0; tag < kDepth; ++tag) {
    auto& slot = *slots_.emplace_back(std::make_unique<Slot>());
    slot.queue = this;
    if (handler.request_private_size == 0) continue;
    const size_t size = (size_t{handler.request_private_size} + 63) / 64 * 64;
    slot.scratch = std::aligned_alloc(64, size);
    std::memset(slot.scratch, 0, size);
  }
  if (handler.queue_open != nullptr)
    device.check(handler.queue_open(device.instance_, handle_.get(), &data_));
}

Queue::~Queue() {
  const ublk_handler& handler = device_.library_.table();
  const int result =
      handler.queue_close == nullptr ? 0 : handler.queue_close(device_.instance_, get(), data_);
  while (result == UBLK_PENDING && !closed_) turn();
  io_uring_queue_exit(&ring_);
}

std::span<std::byte> Queue::buffer(uint16_t tag) { return {slots_.at(tag)->buffer, kBufferSize}; }

void Queue::replace_buffer(uint16_t tag) {
  std::byte* const fresh = map_buffer();
  std::memset(fresh, 0xee, kBufferSize);
  munmap(std::exchange(slots_.at(tag)->buffer, fresh), kBufferSize);
  slots_.at(tag)->fresh = true;
}

void Queue::start(uint16_t tag, ublk_op op, uint64_t offset, uint32_t length, uint32_t flags) {
  Slot& slot = *slots_.at(tag);
  if (slot.state != Slot::State::kIdle) throw std::logic_error("the tag is in use");
  const bool has_data = op == UBLK_OP_READ || op == UBLK_OP_WRITE;
  if (has_data && length > kBufferSize) throw std::logic_error("longer than the buffer");
  slot.request = {};
  slot.request.id = reinterpret_cast<uintptr_t>(&slot);
  slot.request.offset = offset;
  slot.request.length = length;
  slot.request.flags = flags;
  if (has_data && !std::exchange(slot.fresh, false)) slot.request.flags |= UBLK_REQUEST_TAG_BUFFER;
  slot.request.op = op;
  slot.request.tag = tag;
  slot.request.buffer = has_data ? slot.buffer : nullptr;
  slot.request.buffer_index = -1;
  slot.request.scratch = slot.scratch;
  slot.state = Slot::State::kWaiting;
  if (device_.on_workers())
    slot.worker = std::thread([this, &slot] { serve(slot); });
  else
    serve(slot);
}

void Queue::serve(Slot& slot) {
  const int result =
      device_.library_.table().submit(device_.instance_, handle_.get(), &slot.request);
  if (result == UBLK_PENDING) return;
  if (slot.state != Slot::State::kWaiting) ++device_.wrong_completions;
  slot.result = result;
  slot.state = Slot::State::kDone;
}

int Queue::finish(uint16_t tag) {
  Slot& slot = *slots_.at(tag);
  if (slot.worker.joinable()) slot.worker.join();
  while (slot.state == Slot::State::kWaiting) turn();
  slot.state = Slot::State::kIdle;
  return slot.result;
}

int Queue::run(ublk_op op, uint64_t offset, uint32_t length, uint32_t flags, uint16_t tag) {
  start(tag, op, offset, length, flags);
  return finish(tag);
}

void Queue::cancel(uint16_t tag) {
  device_.library_.table().cancel(device_.instance_, get(), &slots_.at(tag)->request);
}

io_uring_sqe* Queue::get_sqe() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) {
    submit_sqes();
    sqe = io_uring_get_sqe(&ring_);
  }
  std::memset(sqe, 0, sizeof(*sqe));
  fresh_.push_back(sqe);
  return sqe;
}

void Queue::submit_sqes() {
  for (io_uring_sqe* sqe : fresh_) {
    const std::optional<int> result = device_.on_sqe ? device_.on_sqe(*sqe) : std::nullopt;
    if (!result) continue;
    const uint64_t user_data = sqe->user_data;
    faked_.emplace(user_data, *result);
    io_uring_prep_nop(sqe);
    sqe->user_data = user_data;
  }
  fresh_.clear();
  io_uring_submit(&ring_);
}

nanoseconds Queue::until_next_timer() const {
  nanoseconds least = std::chrono::seconds(10);
  for (const auto& [timer, when] : timers_)
    least = std::min(least, std::max<nanoseconds>(when - steady_clock::now(), nanoseconds(0)));
  return least;
}

void Queue::run_timers() {
  std::vector<ublk_timer*> due;
  for (const auto& [timer, when] : timers_)
    if (when <= steady_clock::now()) due.push_back(timer);
  // One may cancel another.
  for (ublk_timer* timer : due)
    if (timers_.erase(timer) != 0) timer->fired(timer);
}

void Queue::turn() {
  submit_sqes();
  const int64_t wait = until_next_timer().count();
  __kernel_timespec timeout{.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
  io_uring_cqe* cqe = nullptr;
  const int error = io_uring_wait_cqe_timeout(&ring_, &cqe, &timeout);
  if (error == -ETIME && timers_.empty()) throw std::runtime_error("no answer for 10 seconds");
  run_timers();
  while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
    const uint64_t user_data = cqe->user_data;
    int32_t result = cqe->res;
    const uint32_t flags = cqe->flags;
    io_uring_cqe_seen(&ring_, cqe);
    if (user_data == LIBURING_UDATA_TIMEOUT) continue;
    if (const auto fake = faked_.find(user_data); fake != faked_.end()) {
      result = fake->second;
      faked_.erase(fake);
    }
    if ((user_data & UBLK_EVENT_USER_DATA_MARK) != UBLK_EVENT_USER_DATA_MARK)
      throw std::logic_error("an SQE without the mark of an event");
    // NOLINTNEXTLINE(performance-no-int-to-ptr): user_data is a number
    auto* event = reinterpret_cast<ublk_event*>(user_data & ~UBLK_EVENT_USER_DATA_MARK);
    event->handle(event, result, flags);
  }
}

// ------------------------------------------------------------------ device --

// Of this process alone: tests run beside each other, and a name may be that of a shared memory.
const std::string& device_name() {
  static const std::string name = "test-" + std::to_string(getpid());
  return name;
}

Device::Device(const std::string& handler, const Options& options, uint32_t open_flags,
               uint32_t nr_queues, std::chrono::milliseconds fence_timeout)
    : library_(handler), handle_(new ublk_device{this}) {
  const ublk_handler& table = library_.table();
  const std::vector<ublk_option_value> values = parse_options(table, options);
  const ublk_open_args args = {
      .struct_size = sizeof(ublk_open_args),
      .flags = open_flags,
      .host = &HostCalls::host(),
      .device = handle_.get(),
      .device_name = device_name().c_str(),
      .options = values.data(),
      .nr_options = static_cast<uint32_t>(values.size()),
      .nr_queues = nr_queues,
      .queue_depth = Queue::kDepth,
      .reserved = 0,
  };
  check(table.open(&args, &instance_));
  try {
    geometry_ = {
        .struct_size = sizeof(ublk_geometry),
        .flags = 0,
        .size = 0,
        .logical_block_size = 512,
        .physical_block_size = 4096,
        .io_min = 4096,
        .io_opt = 0,
        .max_io_size = 0,
        .dma_alignment = 4,
        .max_segments = 0,
        .max_segment_size = 0,
        .chunk_size = 0,
        .discard_granularity = 512,
        .discard_alignment = 0,
        .max_discard_size = 1u << 30,
        .max_write_zeroes_size = 1u << 30,
        .max_queues = 0,
        .model = table.model,
        .workers = table.workers,
    };
    check(table.geometry(instance_, &geometry_));
    if (table.fence != nullptr)
      check(table.fence(instance_, static_cast<uint32_t>(fence_timeout.count())));
    for (uint32_t i = 0; i < nr_queues; ++i) queues_.push_back(std::make_unique<Queue>(*this, i));
  } catch (...) {
    close();
    throw;
  }
}

Device::~Device() { close(); }

void Device::close() {
  queues_.clear();
  library_.table().close(instance_);
}

void Device::check(int result) {
  if (result >= 0) return;
  if (error_text_.empty()) error_text_ = std::generic_category().message(-result);
  throw HandlerError(-result, std::exchange(error_text_, {}));
}

Bytes Device::read(uint64_t offset, uint32_t length) {
  Bytes data;
  while (data.size() < length) {
    const auto left = length - static_cast<uint32_t>(data.size());
    const int n = queue().run(UBLK_OP_READ, offset + data.size(), left);
    check(n == 0 ? -EIO : n);
    const auto got = queue().buffer(0).first(static_cast<size_t>(n));
    data.insert(data.end(), got.begin(), got.end());
  }
  return data;
}

int Device::write(uint64_t offset, std::span<const std::byte> data, uint32_t flags) {
  size_t done = 0;
  while (done < data.size()) {
    std::ranges::copy(data.subspan(done), queue().buffer(0).begin());
    const int n =
        queue().run(UBLK_OP_WRITE, offset + done, static_cast<uint32_t>(data.size() - done), flags);
    check(n == 0 ? -EIO : n);
    done += static_cast<size_t>(n);
  }
  return static_cast<int>(done);
}

int Device::write(uint64_t offset, const std::string& text, uint32_t flags) {
  return write(offset, std::as_bytes(std::span(text)), flags);
}

void Device::flush() { check(queue().run(UBLK_OP_FLUSH, 0, 0)); }

void Device::discard(uint64_t offset, uint32_t length) {
  check(queue().run(UBLK_OP_DISCARD, offset, length));
}

void Device::write_zeroes(uint64_t offset, uint32_t length, uint32_t flags) {
  check(queue().run(UBLK_OP_WRITE_ZEROES, offset, length, flags));
}

}  // namespace test
