// SPDX-License-Identifier: MIT
// The file handler with a sin: its flush does nothing, and FUA is ignored. The test that proves
// flushes must catch it. UBLK_FILE_HANDLER names the real handler's .so.
#include <dlfcn.h>
#include <ublk/handler.h>

#include <cstdlib>

namespace {

const ublk_handler* file_handler() {
  static const ublk_handler* handler = [] {
    const char* path = std::getenv("UBLK_FILE_HANDLER");
    void* library = path != nullptr ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (library == nullptr) std::abort();
    return reinterpret_cast<ublk_handler_entry_fn>(dlsym(library, UBLK_HANDLER_ENTRY_NAME))();
  }();
  return handler;
}

int submit(void* instance, ublk_queue* queue, ublk_request* request) {
  if (request->op == UBLK_OP_FLUSH) return 0;
  request->flags &= ~static_cast<uint32_t>(UBLK_REQUEST_FUA);
  return file_handler()->submit(instance, queue, request);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const ublk_handler* ublk_handler_entry() {
  static const ublk_handler handler = [] {
    ublk_handler copy = *file_handler();
    copy.name = "noflush";
    copy.submit = submit;
    return copy;
  }();
  return &handler;
}
