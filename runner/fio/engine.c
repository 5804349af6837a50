/* SPDX-License-Identifier: MIT */
/*
 * fio's engine "external:libublk_fio.so": see ublk-handler-check(1). Built against the headers of
 * exactly the fio that is to load it.
 */
#include <fio.h>
#include <optgroup.h>

#include "device.h"

struct ublk_options {
  void* pad; /* fio's own use */
  char* handler;
  char* handler_options;
  unsigned int queues;
};

static struct fio_option options[] = {
    {
        .name = "handler",
        .lname = "ublk handler",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct ublk_options, handler),
        .help = "Path of a handler_NAME.so",
        .category = FIO_OPT_C_ENGINE,
        .group = FIO_OPT_G_INVALID,
    },
    {
        .name = "handler_options",
        .lname = "ublk handler options",
        .type = FIO_OPT_STR_STORE,
        .off1 = offsetof(struct ublk_options, handler_options),
        .help = "Settings as in ublk-runner.conf, KEY=VALUE,KEY=VALUE",
        .category = FIO_OPT_C_ENGINE,
        .group = FIO_OPT_G_INVALID,
    },
    {
        .name = "queues",
        .lname = "ublk queues",
        .type = FIO_OPT_INT,
        .off1 = offsetof(struct ublk_options, queues),
        .help = "Queues of the device",
        .def = "1",
        .minval = 1,
        .category = FIO_OPT_C_ENGINE,
        .group = FIO_OPT_G_INVALID,
    },
    {.name = NULL},
};

static struct ublk_fio_settings settings_of(struct thread_data* td) {
  const struct ublk_options* eo = td->eo;
  struct ublk_fio_settings settings = {
      .handler = eo->handler,
      .options = eo->handler_options,
      .queue_depth = td->o.iodepth,
      .queues = eo->queues,
  };
  for (int i = 0; i < DDIR_RWDIR_CNT; i++)
    if (td->o.max_bs[i] > settings.max_io_size) settings.max_io_size = td->o.max_bs[i];
  return settings;
}

/* In fio's main process, before the job has its own. */
static int setup(struct thread_data* td) {
  const struct ublk_fio_settings settings = settings_of(td);
  const uint64_t size = ublk_fio_size(&settings);
  if (size == 0) {
    td_verror(td, EINVAL, "ublk handler");
    return 1;
  }
  if (!td->files_index) {
    add_file(td, "ublk", 0, 0);
    td->o.nr_files = td->o.nr_files ?: 1;
  }
  td->files[0]->real_file_size = size;
  td->files[0]->filetype = FIO_TYPE_BLOCK;
  fio_file_set_size_known(td->files[0]);
  return 0;
}

static int init(struct thread_data* td) {
  const struct ublk_fio_settings settings = settings_of(td);
  td->io_ops_data = ublk_fio_open(&settings);
  return td->io_ops_data != NULL ? 0 : 1;
}

static void cleanup(struct thread_data* td) {
  if (td->io_ops_data != NULL) ublk_fio_close(td->io_ops_data);
  td->io_ops_data = NULL;
}

static enum fio_q_status queue(struct thread_data* td, struct io_u* io_u) {
  enum ublk_fio_op op;
  fio_ro_check(td, io_u);
  if (io_u->ddir == DDIR_READ) {
    op = UBLK_FIO_READ;
  } else if (io_u->ddir == DDIR_WRITE) {
    op = UBLK_FIO_WRITE;
  } else if (io_u->ddir == DDIR_TRIM) {
    op = UBLK_FIO_DISCARD;
  } else if (ddir_sync(io_u->ddir)) {
    op = UBLK_FIO_FLUSH;
  } else {
    io_u->error = EINVAL;
    return FIO_Q_COMPLETED;
  }
  ublk_fio_submit(td->io_ops_data, op, io_u->offset, io_u->xfer_buflen, io_u->xfer_buf, io_u);
  return FIO_Q_QUEUED;
}

static int getevents(struct thread_data* td, unsigned int min, unsigned int max,
                     const struct timespec* timeout) {
  return ublk_fio_wait(td->io_ops_data, min, max, timeout);
}

static struct io_u* event(struct thread_data* td, int number) {
  int error;
  struct io_u* io_u = ublk_fio_event(td->io_ops_data, number, &error);
  io_u->error = error;
  io_u->resid = error != 0 ? io_u->xfer_buflen : 0;
  return io_u;
}

static int open_file(struct thread_data* td, struct fio_file* file) {
  (void)td;
  (void)file;
  return 0;
}

static int close_file(struct thread_data* td, struct fio_file* file) {
  (void)td;
  (void)file;
  return 0;
}

static int get_file_size(struct thread_data* td, struct fio_file* file) {
  (void)td;
  return fio_file_size_known(file) ? 0 : 1;
}

__attribute__((visibility("default"))) struct ioengine_ops ioengine = {
    .name = "ublk",
    .version = FIO_IOOPS_VERSION,
    .flags = FIO_DISKLESSIO | FIO_NOEXTEND | FIO_NODISKUTIL | FIO_RAWIO,
    .setup = setup,
    .init = init,
    .cleanup = cleanup,
    .queue = queue,
    .getevents = getevents,
    .event = event,
    .open_file = open_file,
    .close_file = close_file,
    .get_file_size = get_file_size,
    .option_struct_size = sizeof(struct ublk_options),
    .options = options,
};
