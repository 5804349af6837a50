/* SPDX-License-Identifier: MIT */
/*
 * The handler ABI: how a plugin serves a block device.
 *
 * A handler is one shared object, handler_NAME.so, that exports one symbol. The
 * runner loads it when a device of /etc/ublk-runner.conf says "handler = NAME",
 * opens an *instance* for each such device, and hands every I/O of the device
 * to the instance's submit():
 *
 *   #include <ublk/handler.h>
 *
 *   static int my_submit(void *instance, struct ublk_queue *queue,
 *                        struct ublk_request *request)
 *   {
 *       switch (request->op) {
 *       case UBLK_OP_READ:
 *           memset(request->buffer, 0, request->length);
 *           return request->length;
 *       case UBLK_OP_WRITE:
 *           return request->length;
 *       }
 *       return -EOPNOTSUPP;
 *   }
 *
 *   static const struct ublk_handler my_handler = {
 *       UBLK_HANDLER_HEADER,
 *       .name = "my", .summary = "reads zeroes, forgets writes",
 *       .model = UBLK_MODEL_INLINE,
 *       .open = my_open, .close = my_close, .geometry = my_geometry,
 *       .submit = my_submit,
 *   };
 *   UBLK_REGISTER_HANDLER(my_handler)
 *
 * C++ authors use <ublk/handler.hpp>, which says the same in a class.
 *
 * The life of an instance, each call after the one before has returned:
 *
 *   open -> geometry -> fence -> queue_open, once a queue -> submit ...
 *        -> queue_close, once a queue -> close
 *
 * Threads: open, geometry, fence and close run on a thread that may block and
 * that is none of the queues'. queue_open, queue_close, cancel, events and
 * timers run on the queue's own thread, and so does submit, unless the model is
 * UBLK_MODEL_WORKERS: then it runs on worker threads, several at a time, also
 * for one queue. Two queues of one instance may be on different threads.
 * Threads that are made in calls of a queue or by a worker inherit SCHED_BATCH,
 * sched(7); those that open makes don't.
 *
 * Compatibility: this header describes ABI version 1. Structures only ever
 * grow at their end, and every structure that crosses the border carries its
 * size, so a handler built today keeps working with every later runner. All
 * text is UTF-8 and NUL-terminated. Nothing may be thrown across this border.
 */
#ifndef UBLK_HANDLER_H
#define UBLK_HANDLER_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UBLK_HANDLER_ABI_VERSION 1

/*
 * The one answer of submit() that is no result: the request will be completed
 * later, exactly once, by ublk_host.complete. It is no valid -errno.
 */
#define UBLK_PENDING INT_MIN

struct io_uring_sqe; /* <liburing.h> or <linux/io_uring.h> */
struct ublk_device;  /* the runner's device; opaque */
struct ublk_queue;   /* one of its queues; opaque */

/* ------------------------------------------------------------- requests -- */

/* Kinds of I/O, the values of the kernel's UBLK_IO_OP_*. */
enum ublk_op {
  UBLK_OP_READ = 0,
  UBLK_OP_WRITE = 1,
  UBLK_OP_FLUSH = 2,
  UBLK_OP_DISCARD = 3,
  UBLK_OP_WRITE_ZEROES = 5,
};

/* Bits of ublk_request.flags. */
enum {
  /* WRITE or WRITE_ZEROES: on stable storage before it completes. Seen only by
   * handlers that advertise UBLK_GEOMETRY_FUA; for others the kernel sends a
   * FLUSH afterwards. */
  UBLK_REQUEST_FUA = 1u << 0,
  /* WRITE_ZEROES: the blocks must stay allocated (REQ_NOUNMAP). */
  UBLK_REQUEST_NO_UNMAP = 1u << 1,
  /* READ or WRITE: buffer is the tag's own. It is where it was at the tag's last request, and since
   * then nobody has written to it, but for the data of this WRITE. */
  UBLK_REQUEST_TAG_BUFFER = 1u << 2,
};

/*
 * One I/O. It is the handler's from the call of submit() until it is completed;
 * after that neither the structure nor its buffer may be touched.
 *
 * The runner has already checked it: the range lies inside the device and on
 * logical blocks, the operation is one that the geometry advertised, and no
 * write reaches a read-only device.
 */
struct ublk_request {
  uint64_t id;     /* names this I/O for ublk_host.complete; keep a copy of it */
  uint64_t offset; /* bytes from the start of the device; 0 for FLUSH */
  uint32_t length; /* bytes; 0 for FLUSH */
  uint32_t flags;  /* UBLK_REQUEST_* */
  uint8_t op;      /* enum ublk_op */
  uint8_t reserved0;
  uint16_t tag; /* 0 .. queue depth - 1; no two requests of a queue share one */
  /* READ or WRITE with UBLK_GEOMETRY_ZERO_COPY: the slot of the ring's buffer table in which the
   * data is registered until the request is completed; -1: it is not, and comes as it would without
   * the flag. -1 for other operations. */
  int32_t buffer_index;
  /* READ: where to put length bytes. WRITE: where length bytes are. NULL for other operations.
   * Page-aligned, but for the rest of a request of which the handler has done a part. The memory
   * is the runner's, unless the handler has alloc_io_buffer and the device is in copy mode. With
   * UBLK_HANDLER_MOVES_DATA it may be NULL: the data is moved by the host's functions then. With a
   * buffer_index it is no address of memory but what IORING_OP_READ_FIXED (of a READ) and
   * WRITE_FIXED (of a WRITE) on the queue's ring take as the address: the offset in the data. */
  void* buffer;
  /* ublk_handler.request_private_size bytes, 64-aligned, zeroed once when the
   * queue opens and left alone from then on: state for this I/O without an
   * allocation. Belongs to the tag. NULL if the size is 0. */
  void* scratch;
};

/* --------------------------------------------------------------- options -- */

enum ublk_option_type {
  UBLK_OPTION_STRING = 1,  /* text, not empty */
  UBLK_OPTION_PATH = 2,    /* absolute path of a file or device */
  UBLK_OPTION_BOOL = 3,    /* true or false (also yes, no, on, off, 1, 0) */
  UBLK_OPTION_INTEGER = 4, /* unsigned decimal, minimum <= value <= maximum */
  UBLK_OPTION_SIZE = 5,    /* bytes; suffixes K M G T P of 1024; same range rule */
  UBLK_OPTION_CHOICE = 6,  /* one of the words in choices */
};

enum {
  UBLK_OPTION_REQUIRED = 1u << 0, /* open is not called without it */
  UBLK_OPTION_SECRET = 1u << 1,   /* the value is never logged nor shown */
};

/*
 * One option of a handler. The runner reads it from the device's section of the
 * configuration, checks type and range, and shows it in "ublkctl handlers NAME".
 * These names are the runner's own and can't be used: handler,
 * queues, queue_depth, max_io_size, workers, buffer, zero_copy, batch_io,
 * recovery, recovery_timeout, io_timeout, io_timeout_action, read_only, and all
 * that begin with "ublk_".
 */
struct ublk_option {
  const char* name;          /* [a-z][a-z0-9_]* */
  uint32_t type;             /* enum ublk_option_type */
  uint32_t flags;            /* UBLK_OPTION_REQUIRED ... */
  const char* default_value; /* as it would stand in the configuration; NULL: none */
  uint64_t minimum;          /* INTEGER and SIZE */
  uint64_t maximum;          /* INTEGER and SIZE; 0: no bound */
  const char* choices;       /* CHOICE: words separated by '|' */
  const char* help;          /* one sentence, for people */
};

/* What the configuration, or the default, gave for the option of the same index. */
struct ublk_option_value {
  uint32_t is_set;  /* 0: absent, without a default; then all else is 0 */
  uint32_t boolean; /* BOOL */
  uint64_t number;  /* INTEGER; SIZE in bytes; CHOICE: index of the word */
  const char* text; /* STRING, PATH, CHOICE, and the literal text of the others */
};

/* ------------------------------------------------------- events and timers -- */

/*
 * An event is the end of an SQE that the handler put on the queue's ring. Place
 * it in the request's scratch (or in the instance), set handle, and give the SQE
 * the event's user_data:
 *
 *   struct io_uring_sqe *sqe = host->get_sqe(queue);
 *   io_uring_prep_read(sqe, fd, request->buffer, request->length, offset);
 *   io_uring_sqe_set_data64(sqe, ublk_event_user_data(&op->event));
 *
 * handle() is called on the queue's thread with the CQE's res and flags, once
 * for each CQE (a multishot SQE has many). The memory must stay until the last.
 */
struct ublk_event {
  void (*handle)(struct ublk_event* event, int32_t result, uint32_t cqe_flags);
};

/* The top 16 bits that mark the user_data of an event. User-space addresses leave them free. */
#define UBLK_EVENT_USER_DATA_MARK (UINT64_C(0xb701) << 48)

static inline uint64_t ublk_event_user_data(struct ublk_event* event) {
  return UBLK_EVENT_USER_DATA_MARK | (uint64_t)(uintptr_t)event;
}

/*
 * A one-shot timer on a queue's thread. The memory is the handler's and must
 * stay until fired() has been called or cancel_timer() has returned.
 */
struct ublk_timer {
  void (*fired)(struct ublk_timer* timer);
  void* host_private[4]; /* the runner's, while the timer is set; zero it before the first use */
};

/* ------------------------------------------------------------------ host -- */

enum ublk_log_level {
  UBLK_LOG_ERROR = 0,
  UBLK_LOG_WARNING = 1,
  UBLK_LOG_INFO = 2,
  UBLK_LOG_DEBUG = 3,
};

/* What the runner does for a handler. Check struct_size before you use a field that a later version
 * appended. */
struct ublk_host {
  uint32_t abi_version; /* the runner's */
  uint32_t struct_size; /* sizeof(struct ublk_host) in the runner */

  /* Writes a line to the runner's log, with the device's name. Any thread. */
  void (*log)(struct ublk_device* device, uint32_t level, const char* format, ...)
      __attribute__((format(printf, 3, 4)));

  /* The text that tells the user why the callback now running fails: open, geometry, fence and
   * queue_open. Without it the user sees the errno's text alone. On the callback's thread. */
  void (*set_error)(struct ublk_device* device, const char* format, ...)
      __attribute__((format(printf, 2, 3)));

  /*
   * Completes a request for which submit returned UBLK_PENDING (it may be called before submit has
   * returned). result is as submit's. Any thread, never blocks. Returns 0, or -EALREADY if that
   * request is not waiting: it was completed before. Such a call is logged and changes nothing.
   * It is also -EALREADY, and nothing to be logged, if the runner has failed the request because it
   * took longer than the device's io_timeout: until this call all of it stays the handler's.
   */
  int (*complete)(uint64_t request_id, int32_t result);

  /*
   * An empty SQE of the queue's ring; never NULL (a full ring is submitted first). It reaches the
   * kernel at the end of the loop's turn, together with all others. Use it at once: fill it and
   * give it the user_data of an event before the next call of the host, and do not set
   * IOSQE_CQE_SKIP_SUCCESS. To link SQEs (IOSQE_IO_LINK) ask for all of them first with
   * reserve_sqes. On the queue's thread, from any callback that runs there.
   */
  struct io_uring_sqe* (*get_sqe)(struct ublk_queue* queue);

  /* Makes sure that the next `count` (at most 16) get_sqe go to the kernel in one submission. */
  void (*reserve_sqes)(struct ublk_queue* queue, uint32_t count);

  /* Fires once, `nanoseconds` (CLOCK_MONOTONIC) from now, on the queue's thread. Setting a timer
   * that is set moves it. On the queue's thread. */
  void (*set_timer)(struct ublk_queue* queue, struct ublk_timer* timer, uint64_t nanoseconds);
  /* After it fired() is not called any more. On the queue's thread. No-op on an idle timer. */
  void (*cancel_timer)(struct ublk_queue* queue, struct ublk_timer* timer);

  /*
   * Tells that the backend's size is now `bytes`, a multiple of the logical block. The runner
   * passes it to the kernel where the kernel can (UBLK_F_UPDATE_SIZE) and logs it otherwise.
   * Returns at once. Any thread, between open and close.
   */
  void (*size_changed)(struct ublk_device* device, uint64_t bytes);

  /* Ends a queue_close that returned UBLK_PENDING. On the queue's thread. */
  void (*queue_closed)(struct ublk_queue* queue);

  /*
   * Move `length` bytes at `offset` within the request: read_data from the data of a WRITE to the
   * handler's memory, write_data from there to the data of a READ. Any part, any number of times,
   * any thread that may block for as long as a memcpy takes, until the request is completed. With
   * a buffer of the runner they copy from and to that. Return `length` or -errno: EACCES, the
   * wrong way for this operation; EINVAL, past the end; EALREADY, the request was completed.
   */
  int32_t (*read_data)(const struct ublk_request* request, void* to, uint32_t length,
                       uint32_t offset);
  int32_t (*write_data)(const struct ublk_request* request, const void* from, uint32_t length,
                        uint32_t offset);
  /*
   * The same, whichever way the request goes, by an SQE on the queue's ring, so that it costs no
   * system call. Returns UBLK_PENDING: then the event gets the bytes moved or -errno, and `memory`
   * must stay until then. Otherwise it is done: `length` or -errno. On the queue's thread.
   */
  int32_t (*move_on_ring)(struct ublk_queue* queue, const struct ublk_request* request,
                          void* memory, uint32_t length, uint32_t offset, struct ublk_event* event);

  /* The queue's number, 0 .. nr_queues - 1. Any thread. */
  uint32_t (*queue_index)(const struct ublk_queue* queue);
  /* What queue_open left in *queue_data. Any thread. */
  void* (*queue_data)(const struct ublk_queue* queue);

  /*
   * Tells what is wrong with a device that is served all the same: its I/O fails, or waits. Shown
   * by "ublkctl show" and "list" as the device's trouble, not logged. An empty text: nothing any
   * more. Gone with the instance. Returns at once. Any thread, between open and close.
   */
  void (*set_trouble)(struct ublk_device* device, const char* format, ...)
      __attribute__((format(printf, 2, 3)));
};

/* -------------------------------------------------------------- handlers -- */

enum {
  UBLK_OPEN_READ_ONLY = 1u << 0, /* the device will be read-only whatever geometry says */
  /* A runner before this one served the device and may have died at it: what it had on its way to
   * the storage may still arrive there, see fence, and I/O that waits, if any, will be served again
   * by this instance. */
  UBLK_OPEN_RECOVERING = 1u << 1,
};

struct ublk_open_args {
  uint32_t struct_size;
  uint32_t flags;                          /* UBLK_OPEN_* */
  const struct ublk_host* host;            /* valid as long as the process lives */
  struct ublk_device* device;              /* for host calls; valid until close has returned */
  const char* device_name;                 /* valid until close has returned */
  const struct ublk_option_value* options; /* nr_options values; valid until open returns */
  uint32_t nr_options;
  uint32_t nr_queues;   /* how many the configuration asks for, or the device has already */
  uint32_t queue_depth; /* tags of each queue */
  uint32_t reserved;
};

/* Bits of ublk_geometry.flags: what the device can and what it is. */
enum {
  UBLK_GEOMETRY_READ_ONLY = 1u << 0,
  UBLK_GEOMETRY_ROTATIONAL = 1u << 1,
  /* Data of completed writes may be volatile until a FLUSH: the handler gets FLUSH requests.
   * Without it every completed write must be stable. */
  UBLK_GEOMETRY_FLUSH = 1u << 2,
  UBLK_GEOMETRY_FUA = 1u << 3, /* understands UBLK_REQUEST_FUA; needs FLUSH */
  UBLK_GEOMETRY_DISCARD = 1u << 4,
  UBLK_GEOMETRY_WRITE_ZEROES = 1u << 5,
  /* The data does not outlive the process. Such a device is never recovered into an empty disk. */
  UBLK_GEOMETRY_VOLATILE = 1u << 6,
  /* Can serve READ and WRITE of data in the ring's buffer table, see ublk_request.buffer_index. It
   * gets such requests where kernel and configuration allow it, with UBLK_MODEL_RING only, and
   * others at any time. */
  UBLK_GEOMETRY_ZERO_COPY = 1u << 7,
};

/* All sizes in bytes. The runner fills in the defaults before it calls geometry. */
struct ublk_geometry {
  uint32_t struct_size;
  uint32_t flags;                 /* UBLK_GEOMETRY_*; default 0 */
  uint64_t size;                  /* of the device; a multiple of logical_block_size; required */
  uint32_t logical_block_size;    /* power of two, 512 .. 4096; default 512 */
  uint32_t physical_block_size;   /* power of two >= logical; default 4096 */
  uint32_t io_min;                /* preferred smallest I/O; power of two; default physical */
  uint32_t io_opt;                /* preferred I/O, power of two; 0: none */
  uint32_t max_io_size;           /* largest READ or WRITE the handler takes; default 0: any */
  uint32_t dma_alignment;         /* alignment of what users of the device read and write directly,
                                     a power of two up to 4096; default 4. ublk_request.buffer
                                     has its own alignment, whatever this is. */
  uint32_t max_segments;          /* pieces of memory of one request; 0: as many as the largest
                                     request may have */
  uint32_t max_segment_size;      /* 0: the kernel's default; else >= 4096 */
  uint32_t chunk_size;            /* requests never cross a multiple of it; 0: none */
  uint32_t discard_granularity;   /* default: the logical block */
  uint32_t discard_alignment;     /* default 0 */
  uint32_t max_discard_size;      /* largest DISCARD; default 1 GiB */
  uint32_t max_write_zeroes_size; /* largest WRITE_ZEROES; default 1 GiB */
  uint32_t max_queues;            /* the handler's own limit; 0: none */
  uint32_t model;                 /* enum ublk_model of this instance; default: the handler's.
                                     Read once, after open. */
  uint32_t workers;               /* WORKERS: default of the thread limit, as in ublk_handler */
};

enum ublk_model {
  /* submit answers at once and never blocks. */
  UBLK_MODEL_INLINE = 1,
  /* submit and events run on the queue's thread, must not block, and use the queue's ring. */
  UBLK_MODEL_RING = 2,
  /* submit may block; the runner calls it on worker threads, several at a time. It must not use the
   * ring or timers. */
  UBLK_MODEL_WORKERS = 3,
};

/* Bits of ublk_handler.flags. */
enum {
  /* The data of reads and writes is moved by host->read_data, write_data and move_on_ring, from and
   * to memory of the handler's own. The runner then chooses user-copy mode, where the kernel has
   * it, and the data is copied once. */
  UBLK_HANDLER_MOVES_DATA = 1u << 0,
};

/* A handler's table. Zero what you do not use: an absent callback is a feature not offered. */
struct ublk_handler {
  uint32_t abi_version; /* UBLK_HANDLER_ABI_VERSION */
  uint32_t struct_size; /* sizeof(struct ublk_handler) */

  const char* name;    /* NAME of handler_NAME.so, [a-z][a-z0-9_-]* */
  const char* summary; /* one line for people */
  const char* version; /* the handler's own, for people; NULL: it has none */

  const struct ublk_option* options;
  uint32_t nr_options;
  uint32_t option_size; /* sizeof(struct ublk_option) */

  uint32_t model;                /* enum ublk_model */
  uint32_t request_private_size; /* bytes of ublk_request.scratch, at most 64 KiB */
  uint32_t workers;              /* WORKERS: default of a device's thread limit; 0: the runner's */
  uint32_t flags;                /* UBLK_HANDLER_* */

  /* Opens an instance. Returns 0 and sets *instance, or -errno (after host->set_error). On failure
   * nothing may be left behind: close is not called. May block. Required. */
  int (*open)(const struct ublk_open_args* args, void** instance);

  /* Frees the instance. No request is in flight and no queue is open. May block. Required. */
  void (*close)(void* instance);

  /* Describes the device. Called at least once after open, and again when a size changed. Returns 0
   * or -errno. Required. */
  int (*geometry)(void* instance, struct ublk_geometry* geometry);

  /*
   * The question before the first I/O: can anything of a dead predecessor still write to this
   * storage? Returns 0 once nothing can (a lock that the dead process held is ours, its client is
   * blocklisted, ...), or -errno if that could not be made sure within `timeout_ms`; the runner may
   * ask again, and serves no I/O until the answer is 0. Absent: the handler's storage can't be
   * written by another process. May block up to the timeout.
   */
  int (*fence)(void* instance, uint32_t timeout_ms);

  /* Prepares one queue on its own thread; *queue_data is the handler's. Returns 0 or -errno. */
  int (*queue_open)(void* instance, struct ublk_queue* queue, void** queue_data);

  /*
   * Ends one queue on its own thread; no request is in flight. Cancel what is armed on the ring (a
   * poll, say). Returns 0 when no event can arrive any more, or UBLK_PENDING and then calls
   * host->queue_closed.
   */
  int (*queue_close)(void* instance, struct ublk_queue* queue, void* queue_data);

  /*
   * Serves one request. Returns its final result, or UBLK_PENDING and completes it later.
   *
   *   READ, WRITE:          the bytes done, counted from the front. Fewer than asked: the runner
   *                         submits the rest again. 0 is an I/O error.
   *   FLUSH, DISCARD,
   *   WRITE_ZEROES:         0.
   *   failure of any:       -errno, which the user of the device sees as EIO, ENOSPC, ...
   *
   * FLUSH: every write that completed before the FLUSH was submitted, on any queue, is on stable
   * storage when it completes. Requests have no other order: two of them in flight may be done
   * either way round, and who needs an order (a file system's barrier) waits for the first before
   * it sends the second. So with UBLK_MODEL_WORKERS a FLUSH need not wait for writes that other
   * threads are still at. Required.
   */
  int (*submit)(void* instance, struct ublk_queue* queue, struct ublk_request* request);

  /*
   * Copy mode: the handler's own memory for the data of a tag, `bytes` long and page-aligned, which
   * all requests of the tag use; memory that a network card can send from, say. Both on the queue's
   * thread, after queue_open and before queue_close. alloc_io_buffer returns NULL if there is none:
   * then the device does not start. Absent, both of them: the runner's memory.
   */
  void* (*alloc_io_buffer)(void* instance, struct ublk_queue* queue, uint16_t tag, size_t bytes);
  void (*free_io_buffer)(void* instance, struct ublk_queue* queue, uint16_t tag, void* buffer,
                         size_t bytes);

  /*
   * Asks for the end of a request that waits for something that may never come. The device is to
   * go, and the kernel can't let it go before; the request has had its time (some seconds), and
   * nothing more will be submitted. The handler completes it soon, with any result, in this call or
   * later. A request that it does not answer is failed by the runner, but then nobody knows what
   * still uses the request's memory: the instance is never closed.
   *
   * On the queue's thread, for each request that is not completed. With UBLK_MODEL_WORKERS a worker
   * may be in its submit; and if other threads complete requests, it may be completed at any time:
   * `request` stays readable until this returns. Absent: such requests are failed at once.
   */
  void (*cancel)(void* instance, struct ublk_queue* queue, struct ublk_request* request);
};

#define UBLK_HANDLER_HEADER \
  .abi_version = UBLK_HANDLER_ABI_VERSION, .struct_size = sizeof(struct ublk_handler)

/* The one exported symbol: returns the table, which lives as long as the library is loaded. */
#define UBLK_HANDLER_ENTRY_NAME "ublk_handler_entry"
typedef const struct ublk_handler* (*ublk_handler_entry_fn)(void);

#ifdef __cplusplus
#define UBLK_HANDLER_LINKAGE extern "C"
#else
#define UBLK_HANDLER_LINKAGE
#endif

#define UBLK_REGISTER_HANDLER(handler)                                                   \
  UBLK_HANDLER_LINKAGE __attribute__((visibility("default"))) const struct ublk_handler* \
  ublk_handler_entry(void);                                                              \
  UBLK_HANDLER_LINKAGE const struct ublk_handler* ublk_handler_entry(void) { return &(handler); }

#ifdef __cplusplus
}
#endif

#endif /* UBLK_HANDLER_H */
