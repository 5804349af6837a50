// SPDX-License-Identifier: MIT
#include "loaded_handler.h"

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

namespace test {
namespace {

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

}  // namespace

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

std::string LoadedHandler::path(const std::string& name) {
  const char* folder = std::getenv("UBLK_TEST_HANDLER_DIR");
  return std::string(folder != nullptr ? folder : UBLK_TEST_HANDLER_DIR) + "/handler_" + name +
         ".so";
}

LoadedHandler::LoadedHandler(const std::string& name)
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

LoadedHandler::~LoadedHandler() { dlclose(library_); }

}  // namespace test
