// SPDX-License-Identifier: MIT
#include "handler_table.h"

#include <glib.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <span>
#include <stdexcept>
#include <string>

#include "config.h"
#include "option_value.h"

namespace ublk_runner {

namespace {

constexpr uint32_t kMaxOptions = 1024;
constexpr uint32_t kMaxRequestPrivate = 64 << 10;
constexpr uint32_t kHandlerFlags = UBLK_HANDLER_MOVES_DATA;
constexpr uint32_t kOptionFlags = UBLK_OPTION_REQUIRED | UBLK_OPTION_SECRET;

// The least that makes a table, or an option, one.
constexpr size_t kSmallestTable = offsetof(ublk_handler, summary);
constexpr size_t kSmallestOption = offsetof(ublk_option, default_value);

[[noreturn]] void fail(const std::string& text) { throw std::invalid_argument(text); }

bool is_option_name(std::string_view name) {
  return !name.empty() && g_ascii_islower(name.front()) &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return g_ascii_islower(c) || g_ascii_isdigit(c) || c == '_'; });
}

void copy_options(const ublk_handler& handler, std::vector<ublk_option>& options) {
  if (handler.nr_options == 0) return;
  if (handler.options == nullptr || handler.nr_options > kMaxOptions)
    fail("malformed handler: " + std::to_string(handler.nr_options) + " options" +
         (handler.options == nullptr ? " and no table of them" : ""));
  if (handler.option_size < kSmallestOption || handler.option_size % alignof(ublk_option) != 0)
    fail("malformed handler: option_size is " + std::to_string(handler.option_size));
  const auto* from = reinterpret_cast<const std::byte*>(handler.options);
  options.resize(handler.nr_options);
  for (ublk_option& option : options) {
    std::memcpy(&option, from, std::min<size_t>(handler.option_size, sizeof(option)));
    if (option.help == nullptr) option.help = "";
    from += handler.option_size;
  }
}

void check_choices(const ublk_option& option, const std::string& what) {
  std::set<std::string_view> words;
  for (const std::string_view word : choice_words(option))
    if (word.empty() || !words.insert(word).second)
      fail(what + ": its choices are not different words separated by '|'");
}

void check_option(const ublk_option& option) {
  if (option.name == nullptr || !is_option_name(option.name))
    fail("malformed handler: the name of an option is not of lower-case letters, digits and '_'" +
         (option.name == nullptr ? std::string() : ": \"" + escape_text(option.name) + '"'));
  const std::string what = "malformed handler: option \"" + std::string(option.name) + '"';
  if (is_reserved_option_name(option.name)) fail(what + ": the name is reserved for the runner");
  if (option.type < UBLK_OPTION_STRING || option.type > UBLK_OPTION_CHOICE)
    fail(what + ": unknown type " + std::to_string(option.type));
  if (option.flags & ~kOptionFlags) fail(what + ": unknown flags");
  if (option.maximum != 0 && option.minimum > option.maximum)
    fail(what + ": its minimum is above its maximum");
  if (option.type == UBLK_OPTION_CHOICE) check_choices(option, what);
  if (option.default_value != nullptr) {
    try {
      parse_option_value(option, option.default_value);
    } catch (const std::invalid_argument& e) {
      fail(what + ": its default: " + e.what());
    }
  }
}

void check_options(const ublk_handler& handler) {
  std::set<std::string_view> names;
  for (uint32_t i = 0; i < handler.nr_options; ++i) {
    check_option(handler.options[i]);
    if (!names.insert(handler.options[i].name).second)
      fail("malformed handler: two options \"" + std::string(handler.options[i].name) + '"');
  }
}

}  // namespace

ublk_handler copy_handler_table(const ublk_handler* table, std::vector<ublk_option>& options) {
  if (table == nullptr) fail("malformed handler: no table");
  // Not one field more is looked at before the version is known.
  if (table->abi_version > UBLK_HANDLER_ABI_VERSION)
    fail("made for version " + std::to_string(table->abi_version) +
         " of the handler ABI, this runner has version " +
         std::to_string(UBLK_HANDLER_ABI_VERSION));
  if (table->abi_version == 0) fail("malformed handler: ABI version 0");
  if (table->struct_size < kSmallestTable)
    fail("malformed handler: struct_size is " + std::to_string(table->struct_size));

  ublk_handler copy{};
  std::memcpy(&copy, table, std::min<size_t>(table->struct_size, sizeof(copy)));
  copy_options(copy, options);
  copy.options = options.data();
  copy.struct_size = sizeof(copy);
  copy.option_size = sizeof(ublk_option);
  if (copy.summary == nullptr) copy.summary = "";
  return copy;
}

void check_handler_table(const ublk_handler& handler, std::string_view name) {
  if (handler.name == nullptr || handler.name != name)
    fail("the handler in it is named \"" +
         escape_text(handler.name == nullptr ? "" : handler.name) + "\", expected \"" +
         std::string(name) + '"');
  const auto require = [](bool is_there, const char* callback) {
    if (!is_there) fail(std::string("malformed handler: it has no ") + callback);
  };
  require(handler.open != nullptr, "open");
  require(handler.close != nullptr, "close");
  require(handler.geometry != nullptr, "geometry");
  require(handler.submit != nullptr, "submit");
  if (handler.model < UBLK_MODEL_INLINE || handler.model > UBLK_MODEL_WORKERS)
    fail("malformed handler: unknown model " + std::to_string(handler.model));
  if (handler.request_private_size > kMaxRequestPrivate)
    fail("malformed handler: request_private_size is " +
         std::to_string(handler.request_private_size) + ", expected at most " +
         std::to_string(kMaxRequestPrivate));
  if (handler.flags & ~kHandlerFlags) fail("malformed handler: unknown flags");
  if ((handler.alloc_io_buffer == nullptr) != (handler.free_io_buffer == nullptr))
    fail("malformed handler: it has only one of alloc_io_buffer and free_io_buffer");
  check_options(handler);
}

bool is_reserved_option_name(std::string_view name) {
  if (name.starts_with("ublk_")) return true;
  const std::span<const ublk_option> keys = device_keys();
  return std::any_of(keys.begin(), keys.end(),
                     [name](const ublk_option& key) { return name == key.name; });
}

}  // namespace ublk_runner
