// SPDX-License-Identifier: MIT
#include "config_keys.h"

#include <array>
#include <chrono>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <ublk/handler.hpp>

#include "option_value.h"

namespace ublk_runner {

namespace {

constexpr uint32_t kIoBlock = 4096;  // max_io_size is a multiple of it

void accept(const ublk_option_value&) {}

void check_handler(const ublk_option_value& value) {
  if (!is_handler_name(value.text))
    throw std::invalid_argument(
        "expected the name of a handler: at most 64 lower-case letters, digits, '_' and '-', "
        "beginning with a letter");
}

void check_max_io_size(const ublk_option_value& value) {
  if (value.number % kIoBlock != 0)
    throw std::invalid_argument("expected a multiple of " + format_size(kIoBlock) + ", not \"" +
                                value.text + '"');
}

template <class Field>
void assign(Field& field, const ublk_option_value& value) {
  if constexpr (std::is_same_v<Field, std::string>)
    field = value.text;
  else if constexpr (std::is_same_v<Field, bool>)
    field = value.boolean != 0;
  else if constexpr (std::is_arithmetic_v<Field> || std::is_enum_v<Field>)
    field = static_cast<Field>(value.number);
  else
    field = std::chrono::seconds(value.number);
}

template <class Target, class Field>
Target target_of(Field Target::*);

template <auto kField, Reload kReload, void (*kCheck)(const ublk_option_value&) = accept>
constexpr auto key(const ublk_option& option) {
  using Target = decltype(target_of(kField));
  return Key<Target>{option, kReload,
                     [](Target& target, const ublk_option_value& value) {
                       kCheck(value);
                       assign(target.*kField, value);
                     },
                     [](Target& to, const Target& from) { to.*kField = from.*kField; },
                     [](const Target& a, const Target& b) { return a.*kField == b.*kField; }};
}

using enum Reload;

constexpr std::array kRunnerKeys = {
    key<&Config::io_threads, kRefuses>(
        ublk::integer_option("io_threads",
                             "Threads that serve I/O, shared by all devices; 0: half as many as "
                             "there are CPUs, from 1 to 16.",
                             {.default_value = "0", .maximum = 256})),
    key<&Config::spin, kRefuses>(
        ublk::integer_option("spin",
                             "Microseconds for which a thread that serves I/O looks for more "
                             "before it sleeps; 0: never.",
                             {.default_value = "0", .maximum = 10000})),
    key<&Config::handler_dir, kRefuses>(ublk::path_option(
        "handler_dir", "Where handlers are looked for.", {.default_value = UBLK_HANDLER_DIR})),
    key<&Config::log_level, kTakesIn>(ublk::choice_option("log_level", "error|warning|info|debug",
                                                          "The least that is logged.",
                                                          {.default_value = "info"})),
    key<&Config::buffer_memory, kRefuses>(ublk::size_option(
        "buffer_memory", "Memory for the data of requests at most, shared by all devices.",
        {.default_value = "512M", .minimum = 1 << 20, .maximum = uint64_t{1} << 40})),
    key<&Config::watch, kTakesIn>(ublk::bool_option(
        "watch", "Whether changes of the configuration's files are taken in by themselves.",
        {.default_value = "true"})),
    key<&Config::changed_devices, kTakesIn>(ublk::choice_option(
        "changed_devices", "restart|refuse",
        "What a reload does with devices whose options have changed: holds their "
        "I/O and opens their handler anew, or leaves them as they are.",
        {.default_value = "restart"})),
    key<&Config::lock_memory, kRefuses>(ublk::bool_option(
        "lock_memory", "Whether the memory that the runner and its handlers use stays in RAM.",
        {.default_value = "true"})),
    key<&Config::statistics, kTakesIn>(ublk::bool_option(
        "statistics", "Whether requests are counted and timed; it takes some CPU.",
        {.default_value = "false"})),
    key<&Config::statistics_file, kTakesIn>(ublk::path_option(
        "statistics_file", "A file to keep the statistics in, as text for Prometheus.")),
    key<&Config::statistics_interval, kTakesIn>(ublk::integer_option(
        "statistics_interval", "Seconds between two versions of the statistics_file.",
        {.default_value = "15", .minimum = 1, .maximum = 3600})),
};

constexpr std::array kDeviceKeys = {
    key<&DeviceConfig::handler, kRefuses, check_handler>(ublk::string_option(
        "handler", "NAME of the handler_NAME.so that serves the device.", {.required = true})),
    key<&DeviceConfig::queues, kRefuses>(
        ublk::integer_option("queues",
                             "Hardware queues; the kernel makes no more than there are CPUs. 0: "
                             "one for each thread that serves I/O, at most 4.",
                             {.default_value = "1", .maximum = 4096})),
    key<&DeviceConfig::queue_depth, kRefuses>(
        ublk::integer_option("queue_depth", "Requests that each queue has in flight at most.",
                             {.default_value = "128", .minimum = 1, .maximum = 4096})),
    key<&DeviceConfig::max_io_size, kRefuses, check_max_io_size>(ublk::size_option(
        "max_io_size", "The largest request, a multiple of 4K; the kernel splits larger I/O.",
        {.default_value = "512K", .minimum = kIoBlock, .maximum = 32 << 20})),
    key<&DeviceConfig::read_only, kRefuses>(ublk::bool_option(
        "read_only", "Whether the device refuses writes.", {.default_value = "false"})),
    key<&DeviceConfig::workers, kTakesIn>(
        ublk::integer_option("workers",
                             "Threads that serve the device at once at most, if its handler works "
                             "on threads; 0: the handler's default, usually 16.",
                             {.default_value = "0", .maximum = 1024})),
    key<&DeviceConfig::buffer, kRefuses>(ublk::choice_option(
        "buffer", "auto|copy|get-data|user-copy",
        "How the data of requests gets to the handler and back.", {.default_value = "auto"})),
    key<&DeviceConfig::zero_copy, kRefuses>(
        ublk::choice_option("zero_copy", "auto|on|off",
                            "Whether the storage is read and written right from and to the memory "
                            "of whoever uses the device.",
                            {.default_value = "auto"})),
    key<&DeviceConfig::batch_io, kRefuses>(ublk::choice_option(
        "batch_io", "auto|on|off", "Whether requests are fetched and completed many at a time.",
        {.default_value = "auto"})),
    key<&DeviceConfig::recovery, kRefuses>(
        ublk::choice_option("recovery", "reissue|fail-io|none",
                            "What becomes of the device's I/O when the runner dies: it waits for "
                            "the next one, fails until then, or ends with the device.",
                            {.default_value = "reissue"})),
    key<&DeviceConfig::recovery_timeout, kTakesIn>(
        ublk::integer_option("recovery_timeout",
                             "Seconds that I/O waits for a handler that can't be opened, after "
                             "which it fails until the handler can; 0: for ever.",
                             {.default_value = "60", .maximum = 86400})),
    key<&DeviceConfig::io_timeout, kTakesIn>(
        ublk::integer_option("io_timeout",
                             "Seconds that the handler may take for a request, or a request wait "
                             "for a worker or a buffer; 0: any time.",
                             {.default_value = "0", .minimum = 0, .maximum = 86400})),
    key<&DeviceConfig::io_timeout_action, kTakesIn>(ublk::choice_option(
        "io_timeout_action", "warn|fail",
        "What happens to a request that takes longer than io_timeout.", {.default_value = "warn"})),
};

template <class Target, size_t N>
constexpr std::array<ublk_option, N> options_of(const std::array<Key<Target>, N>& keys) {
  std::array<ublk_option, N> options{};
  for (size_t i = 0; i < N; ++i) options[i] = keys[i].option;
  return options;
}

constexpr auto kRunnerOptions = options_of(kRunnerKeys);
constexpr auto kDeviceOptions = options_of(kDeviceKeys);

}  // namespace

template <>
std::span<const Key<Config>> keys_of() {
  return kRunnerKeys;
}
template <>
std::span<const Key<DeviceConfig>> keys_of() {
  return kDeviceKeys;
}

std::span<const ublk_option> runner_keys() { return kRunnerOptions; }
std::span<const ublk_option> device_keys() { return kDeviceOptions; }

}  // namespace ublk_runner
