/* SPDX-License-Identifier: MIT */
/*
 * A handler that is served in this process, for an engine in C: fio's headers are none of C++.
 * One thread uses a device; its data is compared by nobody here.
 */
#ifndef UBLK_FIO_DEVICE_H
#define UBLK_FIO_DEVICE_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ublk_fio_settings {
  const char* handler; /* path of handler_NAME.so */
  const char* options; /* "key=value,key=value", or NULL */
  uint32_t queue_depth;
  uint32_t queues;
  uint32_t max_io_size; /* bytes, of the largest read or write */
};

enum ublk_fio_op { UBLK_FIO_READ, UBLK_FIO_WRITE, UBLK_FIO_FLUSH, UBLK_FIO_DISCARD };

struct ublk_fio_device;

/* These two fail with 0 or NULL, and a line for the user on stderr. */

/* Bytes of the device. Opens and closes the handler. */
uint64_t ublk_fio_size(const struct ublk_fio_settings* settings);
/* Serves it. */
struct ublk_fio_device* ublk_fio_open(const struct ublk_fio_settings* settings);

/* Every request must have ended. */
void ublk_fio_close(struct ublk_fio_device* device);

/* `data` and `cookie` are the caller's until the request has ended. */
void ublk_fio_submit(struct ublk_fio_device* device, enum ublk_fio_op op, uint64_t offset,
                     uint32_t length, void* data, void* cookie);

/* Waits for `min` requests to have ended, at most until `timeout` (NULL: for ever), and takes up to
 * `max`. Returns how many; they are events 0 and on until the next call. */
unsigned ublk_fio_wait(struct ublk_fio_device* device, unsigned min, unsigned max,
                       const struct timespec* timeout);
/* The cookie of an event; *error is 0 or a positive errno. */
void* ublk_fio_event(struct ublk_fio_device* device, unsigned event, int* error);

#ifdef __cplusplus
}
#endif

#endif /* UBLK_FIO_DEVICE_H */
