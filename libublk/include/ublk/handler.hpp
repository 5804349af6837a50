// SPDX-License-Identifier: MIT
//
// Handlers in C++20: the ABI of <ublk/handler.h> as a class.
//
//   #include <ublk/handler.hpp>
//
//   class Zero final : public ublk::Handler {
//    public:
//     static constexpr const char* kName = "zero";
//     static constexpr const char* kSummary = "reads zeroes, refuses writes";
//     static constexpr ublk_model kModel = UBLK_MODEL_INLINE;
//     static constexpr ublk_option kOptions[] = {
//         ublk::size_option("size", "Size of the device.", {.required = true, .minimum = 4096}),
//     };
//
//     explicit Zero(const ublk::OpenArgs& args) : size_(args.number("size")) {}
//
//     void geometry(ublk_geometry& geometry) override { geometry.size = size_; }
//     int read(ublk::Io& io) override {
//       std::memset(io.data(), 0, io.length());
//       return io.length();
//     }
//
//    private:
//     uint64_t size_;
//   };
//   UBLK_HANDLER(Zero)
//
// What a class overrides is what its devices advertise: no write() makes a read-only device, no
// flush() one without a volatile cache, no discard() one that does not discard. FUA is advertised
// by geometry(), since it is a flag of a write.
//
// Errors: the constructor, geometry(), fence() and open_queue() throw. A std::system_error gives
// its errno, anything else derived from std::exception -EINVAL, and what() becomes the text that
// the user reads. The I/O functions return a result as submit() in handler.h does; an exception
// that leaves them fails the request with -EIO. close_queue(), cancel() and free_io_buffer() must
// not throw: nothing could be done about it, and the process ends.
//
// What the class says of itself, as static constexpr members: kName, kSummary and kModel always;
// kOptions, kVersion (const char*), kWorkers (threads a device with UBLK_MODEL_WORKERS gets unless
// the configuration says otherwise), kScratchSize (bytes of each tag, Io::scratch()), kMovesData
// (true: it moves the data itself, UBLK_HANDLER_MOVES_DATA), kFrameSize where they are needed.
//
// A handler that has to wait for something is of UBLK_MODEL_WORKERS and waits; or it returns
// UBLK_PENDING, and completes the request later; or it is a CoroutineHandler, whose functions are
// coroutines: straight code, and no thread waits.
//
//   class Mirror final : public ublk::CoroutineHandler {
//     ...
//     static constexpr ublk_model kModel = UBLK_MODEL_RING;
//     ublk::Task<int> read(ublk::Io& io) override {
//       const int n = co_await io.read(left_, io.data(), io.length(), io.offset());
//       if (n > 0) co_return n;
//       co_return co_await io.read(right_, io.data(), io.length(), io.offset());
//     }
//     ublk::Task<int> write(ublk::Io& io) override {
//       const auto [left, right] = co_await ublk::when_all(
//           io.write(left_, io.data(), io.length(), io.offset()),
//           io.write(right_, io.data(), io.length(), io.offset()));
//       co_return std::min(left, right);
//     }
//     ublk::Task<int> discard(ublk::Io&) override { return 0; }
//   };
//
// With UBLK_MODEL_WORKERS the same coroutines run on a worker thread and wait there. What they can
// await is in <ublk/io.h>, where their memory comes from in <ublk/task.h>: static constexpr
// uint32_t kFrameSize, bytes of each tag, if the default of 1024 does not fit.
//
// Threads: as in handler.h. One object serves all queues of a device at once.
#ifndef UBLK_HANDLER_HPP
#define UBLK_HANDLER_HPP

#include <ublk/handler.h>
#include <ublk/io.h>
#include <ublk/task.h>

#include <cerrno>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>

namespace ublk {

// ---------------------------------------------------------------- options --

struct OptionSpec {
  bool required = false;
  bool secret = false;
  const char* default_value = nullptr;  // as it would stand in the configuration
  uint64_t minimum = 0;                 // INTEGER and SIZE
  uint64_t maximum = 0;                 // INTEGER and SIZE; 0: no bound
};

constexpr ublk_option make_option(const char* name, ublk_option_type type, const char* help,
                                  const OptionSpec& spec, const char* choices = nullptr) {
  return {.name = name,
          .type = type,
          .flags = (spec.required ? uint32_t{UBLK_OPTION_REQUIRED} : 0) |
                   (spec.secret ? uint32_t{UBLK_OPTION_SECRET} : 0),
          .default_value = spec.default_value,
          .minimum = spec.minimum,
          .maximum = spec.maximum,
          .choices = choices,
          .help = help};
}
constexpr ublk_option string_option(const char* name, const char* help, OptionSpec spec = {}) {
  return make_option(name, UBLK_OPTION_STRING, help, spec);
}
constexpr ublk_option path_option(const char* name, const char* help, OptionSpec spec = {}) {
  return make_option(name, UBLK_OPTION_PATH, help, spec);
}
constexpr ublk_option bool_option(const char* name, const char* help, OptionSpec spec = {}) {
  return make_option(name, UBLK_OPTION_BOOL, help, spec);
}
constexpr ublk_option integer_option(const char* name, const char* help, OptionSpec spec = {}) {
  return make_option(name, UBLK_OPTION_INTEGER, help, spec);
}
constexpr ublk_option size_option(const char* name, const char* help, OptionSpec spec = {}) {
  return make_option(name, UBLK_OPTION_SIZE, help, spec);
}
constexpr ublk_option choice_option(const char* name, const char* choices, const char* help,
                                    OptionSpec spec = {}) {
  return make_option(name, UBLK_OPTION_CHOICE, help, spec, choices);
}

// ------------------------------------------------------------------- open --

// What an instance is opened with. Valid while the constructor runs; host, device and device_name
// may be kept until the destructor has returned.
class OpenArgs {
 public:
  OpenArgs(const ublk_open_args& args, const ublk_option* options)
      : args_(args), options_(options) {}

  const ublk_host& host() const { return *args_.host; }
  ublk_device* device() const { return args_.device; }
  const char* device_name() const { return args_.device_name; }
  bool read_only() const { return args_.flags & UBLK_OPEN_READ_ONLY; }
  bool recovering() const { return args_.flags & UBLK_OPEN_RECOVERING; }
  uint32_t nr_queues() const { return args_.nr_queues; }
  uint32_t queue_depth() const { return args_.queue_depth; }

  // The option's value; an absent one is false, 0 or "". A name that is not in kOptions throws
  // std::logic_error.
  bool is_set(std::string_view name) const { return value(name).is_set != 0; }
  bool boolean(std::string_view name) const { return value(name).boolean != 0; }
  uint64_t number(std::string_view name) const { return value(name).number; }
  std::string text(std::string_view name) const {
    const ublk_option_value& v = value(name);
    return v.is_set ? v.text : "";
  }

 private:
  const ublk_option_value& value(std::string_view name) const {
    for (uint32_t i = 0; i < args_.nr_options; ++i)
      if (name == options_[i].name) return args_.options[i];
    throw std::logic_error("the handler has no option \"" + std::string(name) + '"');
  }

  const ublk_open_args& args_;
  const ublk_option* options_;
};

// ------------------------------------------------------------------ queues --

// A queue, on its own thread. A value that is cheap to copy.
class HandlerQueue {
 public:
  HandlerQueue(const ublk_host& host, ublk_queue* queue) : host_(&host), queue_(queue) {}

  uint32_t index() const { return host_->queue_index(queue_); }
  void* data() const { return host_->queue_data(queue_); }
  // See ublk_host.get_sqe and reserve_sqes.
  io_uring_sqe* get_sqe() const { return host_->get_sqe(queue_); }
  void reserve_sqes(uint32_t count) const { host_->reserve_sqes(queue_, count); }
  // A delay that is over fires at once.
  void set_timer(ublk_timer& timer, std::chrono::nanoseconds delay) const {
    const int64_t left = delay.count() > 0 ? delay.count() : 0;
    host_->set_timer(queue_, &timer, static_cast<uint64_t>(left));
  }
  void cancel_timer(ublk_timer& timer) const { host_->cancel_timer(queue_, &timer); }
  void closed() const { host_->queue_closed(queue_); }
  ublk_queue* get() const { return queue_; }

 private:
  const ublk_host* host_;
  ublk_queue* queue_;
};

// ---------------------------------------------------------------- handlers --

// The life of an instance.
class HandlerBase {
 public:
  virtual ~HandlerBase() = default;

  // Fills in what differs from the defaults; size at least. Flags that follow from overridden
  // functions are set by the caller.
  virtual void geometry(ublk_geometry& geometry) = 0;

  // See ublk_handler.fence. Throws if it can't be made sure within `timeout`.
  virtual void fence(std::chrono::milliseconds timeout) { (void)timeout; }

  // A queue's beginning and end, on its thread. close_queue returns 0, or UBLK_PENDING and calls
  // queue.closed() later.
  virtual void* open_queue(HandlerQueue queue) {
    (void)queue;
    return nullptr;
  }
  virtual int close_queue(HandlerQueue queue, void* queue_data) {
    (void)queue;
    (void)queue_data;
    return 0;
  }

  // See ublk_handler.cancel. A CoroutineHandler has it, and need not override it.
  virtual void cancel(HandlerQueue queue, ublk_request& request) { (void)queue, (void)request; }

  // Memory of the handler's own for a tag's data, in copy mode; see ublk_handler.alloc_io_buffer.
  // Override both or none.
  virtual void* alloc_io_buffer(HandlerQueue queue, uint16_t tag, size_t bytes) {
    (void)queue, (void)tag, (void)bytes;
    return nullptr;
  }
  virtual void free_io_buffer(HandlerQueue queue, uint16_t tag, void* buffer, size_t bytes) {
    (void)queue, (void)tag, (void)buffer, (void)bytes;
  }
};

// Its I/O.
template <class Result>
class IoHandler : public HandlerBase {
 public:
  virtual Result read(Io& io) = 0;
  virtual Result write(Io&) { return -EROFS; }
  virtual Result flush(Io&) { return -EOPNOTSUPP; }
  virtual Result discard(Io&) { return -EOPNOTSUPP; }
  virtual Result write_zeroes(Io&) { return -EOPNOTSUPP; }

  // The class that has what is not overridden.
  using Default = IoHandler;
};

// Plain functions: each returns a final result, or UBLK_PENDING; see ublk_handler.submit.
using Handler = IoHandler<int>;

// Coroutines: the result of each is a final one. Of the models RING and WORKERS.
using CoroutineHandler = IoHandler<Task<int>>;

namespace internal {

// True if `member`, of T, is that of T or of a base of it below `Base`: the pointer's class tells.
template <class Base, class Member>
inline constexpr bool is_overridden = true;
template <class Base, class Function>
inline constexpr bool is_overridden<Base, Function Base::*> = false;

// For coroutine frames, bytes of each tag.
inline constexpr uint32_t kDefaultFrameSize = 1024;

template <class T>
concept HasFrameSize = requires {
  T::kFrameSize;
};

template <class T>
concept HasOptions = requires {
  T::kOptions;
};
template <class T>
concept HasScratch = requires {
  T::kScratchSize;
};
template <class T>
concept HasWorkers = requires {
  T::kWorkers;
};
template <class T>
concept MovesData = requires {
  requires T::kMovesData;
};
template <class T>
concept HasVersion = requires {
  T::kVersion;
};

// Runs `call` and turns what it throws into -errno and the text that the user sees.
template <class Call>
int guarded(const ublk_host& host, ublk_device* device, Call call) noexcept {
  try {
    call();
    return 0;
  } catch (const std::system_error& e) {
    host.set_error(device, "%s", e.what());
    const int code = e.code().value();
    return code > 0 && code < 4096 ? -code : -EIO;
  } catch (const std::bad_alloc&) {
    return -ENOMEM;
  } catch (const std::exception& e) {
    host.set_error(device, "%s", e.what());
    return -EINVAL;
  } catch (...) {
    return -EIO;
  }
}

// The C table of a handler class and the functions in it.
template <class T>
class Adapter {
 public:
  static constexpr ublk_handler table() {
    ublk_handler table{};
    table.abi_version = UBLK_HANDLER_ABI_VERSION;
    table.struct_size = sizeof(ublk_handler);
    table.name = T::kName;
    table.summary = T::kSummary;
    if constexpr (HasVersion<T>) table.version = T::kVersion;
    if constexpr (HasOptions<T>) {
      table.options = T::kOptions;
      table.nr_options = std::size(T::kOptions);
    }
    table.option_size = sizeof(ublk_option);
    table.model = T::kModel;
    table.request_private_size = kPrivateSize;
    if constexpr (HasWorkers<T>) table.workers = T::kWorkers;
    if constexpr (MovesData<T>) table.flags |= UBLK_HANDLER_MOVES_DATA;
    table.open = open;
    table.close = close;
    table.geometry = geometry;
    if constexpr (is_overridden<HandlerBase, decltype(&T::fence)>) table.fence = fence;
    table.queue_open = queue_open;
    table.queue_close = queue_close;
    table.submit = submit;
    if constexpr (kCoroutines || is_overridden<HandlerBase, decltype(&T::cancel)>)
      table.cancel = cancel;
    if constexpr (is_overridden<HandlerBase, decltype(&T::alloc_io_buffer)>) {
      table.alloc_io_buffer = alloc_io_buffer;
      table.free_io_buffer = free_io_buffer;
    }
    return table;
  }

 private:
  static constexpr bool kCoroutines = std::derived_from<T, CoroutineHandler>;
  static_assert(!kCoroutines || T::kModel != UBLK_MODEL_INLINE, "coroutines wait: UBLK_MODEL_RING");

  struct Instance {
    explicit Instance(const ublk_open_args& args)
        : host(args.host),
          device(args.device),
          coroutines(*args.host, args.device, kFrameSize),
          handler(OpenArgs(args, options())) {}
    const ublk_host* host;
    ublk_device* device;
    CoroutineHost coroutines;
    T handler;
  };

  // A request's private memory: the handler's scratch, and for coroutines the Io and their frames.
  static constexpr uint32_t scratch_size() {
    if constexpr (HasScratch<T>)
      return T::kScratchSize;
    else
      return 0;
  }
  static constexpr uint32_t frame_size() {
    if constexpr (HasFrameSize<T>)
      return T::kFrameSize;
    else
      return kDefaultFrameSize;
  }
  static constexpr uint32_t kFrameSize = frame_size();
  static constexpr uint32_t kIoOffset = (scratch_size() + 63) / 64 * 64;
  static constexpr uint32_t kFramesOffset = kIoOffset + (sizeof(Io) + 15) / 16 * 16;
  static constexpr uint32_t kPrivateSize =
      kCoroutines ? kFramesOffset + kFrameSize : scratch_size();

  static void* private_memory(const ublk_request& request, uint32_t offset) {
    return static_cast<std::byte*>(request.scratch) + offset;
  }

  static constexpr const ublk_option* options() {
    if constexpr (HasOptions<T>)
      return T::kOptions;
    else
      return nullptr;
  }

  static Instance& self(void* instance) { return *static_cast<Instance*>(instance); }

  static int open(const ublk_open_args* args, void** instance) {
    return guarded(*args->host, args->device,
                   [&] { *instance = std::make_unique<Instance>(*args).release(); });
  }

  static void close(void* instance) noexcept { delete &self(instance); }

  static int geometry(void* instance, ublk_geometry* geometry) {
    if constexpr (!is_overridden<typename T::Default, decltype(&T::write)>)
      geometry->flags |= UBLK_GEOMETRY_READ_ONLY;
    if constexpr (is_overridden<typename T::Default, decltype(&T::flush)>)
      geometry->flags |= UBLK_GEOMETRY_FLUSH;
    if constexpr (is_overridden<typename T::Default, decltype(&T::discard)>)
      geometry->flags |= UBLK_GEOMETRY_DISCARD;
    if constexpr (is_overridden<typename T::Default, decltype(&T::write_zeroes)>)
      geometry->flags |= UBLK_GEOMETRY_WRITE_ZEROES;
    Instance& i = self(instance);
    return guarded(*i.host, i.device, [&] {
      i.handler.geometry(*geometry);
      if (kCoroutines && geometry->model == UBLK_MODEL_WORKERS) i.coroutines.block();
    });
  }

  static int fence(void* instance, uint32_t timeout_ms) {
    Instance& i = self(instance);
    return guarded(*i.host, i.device,
                   [&] { i.handler.fence(std::chrono::milliseconds(timeout_ms)); });
  }

  static int queue_open(void* instance, ublk_queue* queue, void** data) {
    Instance& i = self(instance);
    return guarded(*i.host, i.device,
                   [&] { *data = i.handler.open_queue(HandlerQueue(*i.host, queue)); });
  }

  static int queue_close(void* instance, ublk_queue* queue, void* data) noexcept {
    Instance& i = self(instance);
    return i.handler.close_queue(HandlerQueue(*i.host, queue), data);
  }

  static void* alloc_io_buffer(void* instance, ublk_queue* queue, uint16_t tag, size_t bytes) {
    Instance& i = self(instance);
    try {
      return i.handler.alloc_io_buffer(HandlerQueue(*i.host, queue), tag, bytes);
    } catch (...) {
      return nullptr;
    }
  }
  static void free_io_buffer(void* instance, ublk_queue* queue, uint16_t tag, void* buffer,
                             size_t bytes) noexcept {
    Instance& i = self(instance);
    i.handler.free_io_buffer(HandlerQueue(*i.host, queue), tag, buffer, bytes);
  }

  static int submit(void* instance, ublk_queue* queue, ublk_request* request) {
    Instance& i = self(instance);
    try {
      if constexpr (kCoroutines) {
        Io& io = *new (private_memory(*request, kIoOffset))
                     Io(i.coroutines, queue, *request, private_memory(*request, kFramesOffset));
        return io.start(serve(i.handler, io));
      } else {
        Io io(*i.host, queue, *request);
        return serve(i.handler, io);
      }
    } catch (...) {
      return -EIO;
    }
  }

  // The calls are qualified, so the compiler sees T's own functions and may inline them.
  static auto serve(T& handler, Io& io) -> decltype(handler.T::read(io)) {
    switch (io.request().op) {
      case UBLK_OP_READ:
        return handler.T::read(io);
      case UBLK_OP_WRITE:
        return handler.T::write(io);
      case UBLK_OP_FLUSH:
        return handler.T::flush(io);
      case UBLK_OP_DISCARD:
        return handler.T::discard(io);
      case UBLK_OP_WRITE_ZEROES:
        return handler.T::write_zeroes(io);
      default:
        return -EOPNOTSUPP;
    }
  }

  static void cancel(void* instance, ublk_queue* queue, ublk_request* request) noexcept {
    Instance& i = self(instance);
    if constexpr (!kCoroutines) {
      i.handler.cancel(HandlerQueue(*i.host, queue), *request);
    } else if (i.coroutines.blocks()) {
      i.coroutines.stop();
    } else {
      static_cast<Io*>(private_memory(*request, kIoOffset))->cancel();
    }
  }
};

}  // namespace internal
}  // namespace ublk

// Makes the class the handler of this shared object. At namespace scope, once.
#define UBLK_HANDLER(Class)                                                                   \
  static constexpr ublk_handler ublk_handler_table = ublk::internal::Adapter<Class>::table(); \
  UBLK_REGISTER_HANDLER(ublk_handler_table)

#endif  // UBLK_HANDLER_HPP
