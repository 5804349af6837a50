/* SPDX-License-Identifier: MIT */
/* A read-only disk on which each 8 bytes hold their own offset. */
#include <errno.h>
#include <stdlib.h>
#include <ublk/handler.h>

struct numbers {
  uint64_t size;
};

static const struct ublk_option options[] = {
    {.name = "size",
     .type = UBLK_OPTION_SIZE,
     .default_value = "1G",
     .minimum = 4096,
     .help = "Size of the device, a multiple of 512 bytes."},
};

static int numbers_open(const struct ublk_open_args* args, void** instance) {
  const uint64_t size = args->options[0].number;
  if (size % 512 != 0) {
    args->host->set_error(args->device, "size is %llu bytes, expected a multiple of 512",
                          (unsigned long long)size);
    return -EINVAL;
  }
  struct numbers* self = malloc(sizeof(*self));
  if (self == NULL) return -ENOMEM;
  self->size = size;
  *instance = self;
  return 0;
}

static void numbers_close(void* instance) { free(instance); }

static int numbers_geometry(void* instance, struct ublk_geometry* geometry) {
  const struct numbers* self = instance;
  geometry->size = self->size;
  geometry->flags = UBLK_GEOMETRY_READ_ONLY;
  return 0;
}

static int numbers_submit(void* instance, struct ublk_queue* queue, struct ublk_request* request) {
  (void)instance;
  (void)queue;
  if (request->op != UBLK_OP_READ) return -EOPNOTSUPP;
  uint64_t* words = request->buffer;
  for (uint32_t i = 0; i < request->length / 8; ++i) words[i] = request->offset + 8 * (uint64_t)i;
  return (int)request->length;
}

static const struct ublk_handler numbers = {
    UBLK_HANDLER_HEADER,
    .name = "numbers",
    .summary = "each 8 bytes hold their own offset",
    .options = options,
    .nr_options = sizeof(options) / sizeof(options[0]),
    .option_size = sizeof(struct ublk_option),
    .model = UBLK_MODEL_INLINE,
    .open = numbers_open,
    .close = numbers_close,
    .geometry = numbers_geometry,
    .submit = numbers_submit,
};
UBLK_REGISTER_HANDLER(numbers)
