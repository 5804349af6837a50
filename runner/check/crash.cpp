// SPDX-License-Identifier: MIT
#include "crash.h"

#include <dlfcn.h>
#include <sys/resource.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>

namespace ublk_check {

namespace {

// A signal handler has no other way to them.
int report_fd = -1;
const fake::GuardedBuffers* guarded = nullptr;

const void* program_counter(const void* context) {
#if defined(__x86_64__)
  const auto& registers = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs;
  return reinterpret_cast<const void*>(registers[REG_RIP]);
#elif defined(__aarch64__)
  return reinterpret_cast<const void*>(static_cast<const ucontext_t*>(context)->uc_mcontext.pc);
#else
  static_cast<void>(context);
  return nullptr;
#endif
}

void write_place(char* text, size_t size, const void* code) {
  Dl_info info{};
  if (dladdr(code, &info) == 0 || info.dli_fname == nullptr) {
    snprintf(text, size, "code at %p", code);
    return;
  }
  const char* slash = strrchr(info.dli_fname, '/');
  snprintf(text, size, "%s+0x%tx", slash != nullptr ? slash + 1 : info.dli_fname,
           static_cast<const char*>(code) - static_cast<const char*>(info.dli_fbase));
}

// Neither snprintf() of such formats nor dladdr() are promised to be safe here; there is nothing to
// lose, and who hangs is killed.
void crashed(int signal, siginfo_t* info, void* context) {
  static std::atomic_flag told;  // the first is told, and what follows from it is not
  while (told.test_and_set()) pause();
  char place[256];
  write_place(place, sizeof(place), program_counter(context));
  char text[512];
  const bool has_address = signal == SIGSEGV || signal == SIGBUS;
  const auto found = has_address ? guarded->find(info->si_addr) : std::nullopt;
  if (found)
    snprintf(text, sizeof(text),
             "Cuses a buffer after its request was completed: byte %zu of that of a %s of %u bytes "
             "at %llu (%s)\n",
             found->offset, fake::operation_name(found->op),
             found->sectors * ublk::abi::kSectorSize,
             static_cast<unsigned long long>(found->sector * ublk::abi::kSectorSize), place);
  else if (has_address)
    snprintf(text, sizeof(text), "Ccrashes: SIG%s, address %p (%s)\n", sigabbrev_np(signal),
             info->si_addr, place);
  else
    snprintf(text, sizeof(text), "Ccrashes: SIG%s (%s)\n", sigabbrev_np(signal), place);
  static_cast<void>(!write(report_fd, text, strlen(text)));
  std::signal(signal, SIG_DFL);
  raise(signal);
}

}  // namespace

void report_crashes(const Reporter& reporter, const fake::GuardedBuffers& buffers) {
  report_fd = reporter.fd();
  guarded = &buffers;
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  struct sigaction action {};
  action.sa_sigaction = crashed;
  action.sa_flags = SA_SIGINFO;
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT})
    sigaction(signal, &action, nullptr);
}

}  // namespace ublk_check
