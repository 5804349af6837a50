// SPDX-License-Identifier: MIT
#include "handler_library.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "config.h"
#include "handler_table.h"
#include "option_value.h"

namespace ublk_runner {

namespace {

constexpr std::string_view kPrefix = "handler_";
constexpr std::string_view kSuffix = ".so";

// "; there are file, memory and null", to make a typing error plain.
std::string handlers_in(const std::string& dir) {
  std::error_code error;
  const std::vector<std::string> names = handler_names(dir, error);
  if (error) return "; the handler directory can't be read: " + error.message();
  if (names.empty()) return "; there is no handler in that directory";
  return "; expected " + join_words({names.begin(), names.end()});
}

// The linker's message without the path that it begins with.
std::string linker_error(const std::string& path) {
  const char* text = dlerror();
  if (text == nullptr) return "unknown error of the dynamic linker";
  std::string_view message = text;
  if (message.starts_with(path)) message.remove_prefix(path.size());
  if (message.starts_with(": ")) message.remove_prefix(2);
  return std::string(message);
}

void check_file(const std::string& dir, const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) {
    const int error = errno;
    throw std::runtime_error(path + ": " + std::generic_category().message(error) +
                             (error == ENOENT ? handlers_in(dir) : ""));
  }
  if (!S_ISREG(st.st_mode)) throw std::runtime_error(path + ": no regular file");
}

// The dynamic linker takes a path that it has loaded before for the same library, also when the
// file has been replaced since, and another path for another library unless it is the same file. So
// each new file of a path gets another spelling of it.
std::string path_of_file(const std::string& dir, const std::string& file) {
  struct Known {
    dev_t device;
    ino_t inode;
    unsigned replaced;  // how often, since the first
  };
  static std::mutex mutex;  // a leaf
  static auto& known = *new std::map<std::string, Known>;
  struct stat st {};
  const std::string path = dir + '/' + file;
  if (stat(path.c_str(), &st) != 0) return path;
  const std::lock_guard lock(mutex);
  Known& last = known.try_emplace(path, Known{st.st_dev, st.st_ino, 0}).first->second;
  if (last.device != st.st_dev || last.inode != st.st_ino)
    last = {st.st_dev, st.st_ino, last.replaced + 1};
  std::string spelling = dir + '/';
  for (unsigned i = 0; i < last.replaced; ++i) spelling += "./";
  return spelling + file;
}

}  // namespace

std::vector<std::string> handler_names(const std::string& dir, std::error_code& error) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    const std::string file = entry.path().filename().string();
    if (!file.starts_with(kPrefix) || !file.ends_with(kSuffix)) continue;
    if (file.size() <= kPrefix.size() + kSuffix.size()) continue;
    names.push_back(file.substr(kPrefix.size(), file.size() - kPrefix.size() - kSuffix.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

HandlerLibrary::HandlerLibrary(std::string path, void* library)
    : path_(std::move(path)), library_(library) {}

HandlerLibrary::~HandlerLibrary() { dlclose(library_); }

std::shared_ptr<HandlerLibrary> HandlerLibrary::load(const std::string& dir,
                                                     const std::string& name) {
  if (!is_handler_name(name))
    throw std::runtime_error("\"" + escape_text(name) + "\" is no name of a handler");
  const std::string file = std::string(kPrefix) + name + std::string(kSuffix);
  // With a '/' the linker takes it for a path and searches nowhere.
  const std::string path = dir + '/' + file;
  check_file(dir, path);
  // RTLD_NOW: what is missing is found here and not at the first I/O.
  const std::string spelling = path_of_file(dir, file);
  void* const library = dlopen(spelling.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error(path + ": " + linker_error(spelling));
  std::shared_ptr<HandlerLibrary> loaded(new HandlerLibrary(path, library));

  const auto entry =
      reinterpret_cast<ublk_handler_entry_fn>(dlsym(library, UBLK_HANDLER_ENTRY_NAME));
  if (entry == nullptr)
    throw std::runtime_error(path + ": no handler: it has no symbol " UBLK_HANDLER_ENTRY_NAME);
  try {
    loaded->handler_ = copy_handler_table(entry(), loaded->options_);
    check_handler_table(loaded->handler_, name);
  } catch (const std::invalid_argument& e) {
    throw std::runtime_error(path + ": " + e.what());
  }
  return loaded;
}

}  // namespace ublk_runner
