// SPDX-License-Identifier: MIT
#include "modules.h"

#include <dlfcn.h>
#include <libkmod.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>

#include "log.h"
#include "wait_for_file.h"

namespace ublk_runner {

namespace {

constexpr const char* kNode = "/dev/ublk-control";
constexpr const char* kSysfsDevice = "/sys/class/misc/ublk-control";
constexpr const char* kModule = "ublk_drv";
constexpr std::chrono::seconds kNodeTimeout{5};

bool exists(const char* path) { return access(path, F_OK) == 0; }

[[noreturn]] void fail(const std::string& cause) {
  throw std::runtime_error(std::string(kNode) + " is missing: " + cause);
}

std::string kernel_release() {
  utsname name{};
  uname(&name);
  return name.release;
}

[[noreturn]] void fail_without_module() {
  fail("the running kernel, " + kernel_release() + ", has no module " + kModule +
       " under /lib/modules; a kernel of version 6.5 or later with CONFIG_BLK_DEV_UBLK is needed, "
       "and in a container the driver must be loaded outside of it");
}

[[noreturn]] void fail_loading(int error) {
  const std::string what = std::string("loading the module ") + kModule + ": ";
  if (error == EPERM || error == EACCES)
    fail(what +
         "not permitted: that takes root with CAP_SYS_MODULE, and is not possible in most "
         "containers and where the kernel allows signed modules only; \"modprobe " +
         kModule + "\" outside of the container may help");
  if (error == KMOD_PROBE_APPLY_BLACKLIST) fail(what + "it is on a blacklist of modprobe.d(5)");
  fail(what + std::generic_category().message(error));
}

// Loaded when it is needed, at most once a boot: with it come libcrypto's relocations, which took
// longer than the rest of a start, while the I/O of devices may wait for the new runner.
class KmodLibrary {
 public:
  KmodLibrary() : library_(dlopen("libkmod.so.2", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) fail(std::string("loading the module needs libkmod: ") + dlerror());
  }
  ~KmodLibrary() { dlclose(library_); }
  KmodLibrary(const KmodLibrary&) = delete;
  KmodLibrary& operator=(const KmodLibrary&) = delete;

  template <class Function>
  Function* find(const char* name) const {
    void* const symbol = dlsym(library_, name);
    if (symbol == nullptr) fail(std::string("libkmod has no ") + name);
    return reinterpret_cast<Function*>(symbol);
  }

 private:
  void* const library_;
};

// By modprobe's rules: dependencies, options, install commands and blacklists of modprobe.d(5).
void insert_module() {
  const KmodLibrary library;
  auto* unref = library.find<decltype(kmod_unref)>("kmod_unref");
  auto* unref_list = library.find<decltype(kmod_module_unref_list)>("kmod_module_unref_list");
  auto* unref_module = library.find<decltype(kmod_module_unref)>("kmod_module_unref");
  auto* look_up =
      library.find<decltype(kmod_module_new_from_lookup)>("kmod_module_new_from_lookup");
  auto* get_module = library.find<decltype(kmod_module_get_module)>("kmod_module_get_module");
  auto* probe_insert =
      library.find<decltype(kmod_module_probe_insert_module)>("kmod_module_probe_insert_module");

  const std::unique_ptr<kmod_ctx, decltype(unref)> kmod(
      library.find<decltype(kmod_new)>("kmod_new")(nullptr, nullptr), unref);
  if (!kmod) fail_loading(errno);
  kmod_list* found = nullptr;
  const int lookup = look_up(kmod.get(), kModule, &found);
  const std::unique_ptr<kmod_list, decltype(unref_list)> list(found, unref_list);
  if (lookup < 0 || found == nullptr) fail_without_module();
  const std::unique_ptr<kmod_module, decltype(unref_module)> module(get_module(found),
                                                                    unref_module);
  log(LogLevel::kInfo, {}, "loading the kernel module %s", kModule);
  const int result =
      probe_insert(module.get(), KMOD_PROBE_APPLY_BLACKLIST, nullptr, nullptr, nullptr, nullptr);
  if (result == -ENOENT) fail_without_module();
  if (result != 0 && result != -EEXIST) fail_loading(result < 0 ? -result : result);
}

}  // namespace

void load_ublk_module() {
  if (exists(kNode)) return;
  // A driver that is built in or loaded already shows in sysfs, also where /dev is not the
  // kernel's.
  if (!exists(kSysfsDevice)) insert_module();
  if (!wait_for_file(kNode, kNodeTimeout))
    fail(
        "the driver is there, but nothing made the node: /dev is neither a devtmpfs nor kept by "
        "udev, or this container is not given the node");
}

}  // namespace ublk_runner
