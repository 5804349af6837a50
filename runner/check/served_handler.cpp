// SPDX-License-Identifier: MIT
#include "served_handler.h"

#include <ublk/control.h>

#include <cerrno>
#include <cstdlib>
#include <future>
#include <map>
#include <stdexcept>
#include <string_view>

namespace ublk_check {

using ublk_runner::DeviceConfig;
using ublk_runner::Runner;
using ublk_runner::StartSummary;

HandlerFile::HandlerFile(const std::string& path) {
  constexpr std::string_view kPrefix = "handler_";
  const std::filesystem::path file = std::filesystem::absolute(path);
  const std::string stem = file.stem().string();
  if (file.extension() != ".so" || !stem.starts_with(kPrefix) ||
      !ublk_runner::is_handler_name(std::string_view(stem).substr(kPrefix.size())))
    throw std::invalid_argument(path + ": expected a file handler_NAME.so");
  dir_ = file.parent_path().string();
  name_ = stem.substr(kPrefix.size());
}

std::pair<std::string, std::string> parse_setting(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos)
    throw std::invalid_argument("expected KEY=VALUE, not \"" + text + '"');
  return {text.substr(0, equals), text.substr(equals + 1)};
}

DeviceConfig device_config(const HandlerFile& file, const Settings& settings) {
  const ublk_runner::Location here{.file = "options", .line = 0};
  std::map<std::string, ublk_runner::Setting> given = {{"handler", {file.name(), here}}};
  for (const auto& [key, value] : settings)
    if (!given.emplace(key, ublk_runner::Setting{value, here}).second)
      throw std::invalid_argument("\"" + key + "\" is given twice, or is the handler itself");
  return ublk_runner::device_from_settings("check", given);
}

// The control thread of the runner.
struct ServedHandler::MainLoop {
  MainLoop() : thread([this] { g_main_loop_run(loop.get()); }) {}
  ~MainLoop() {
    posts.post([this] { g_main_loop_quit(loop.get()); });
    thread.join();
  }

  // Runs `function` on the control thread and waits until it has returned.
  template <class F>
  void call(F&& function) {
    std::packaged_task<void()> task(std::forward<F>(function));
    posts.post([&task] { task(); });
    task.get_future().get();
  }

  const std::shared_ptr<GMainContext> context{g_main_context_new(), g_main_context_unref};
  const std::shared_ptr<GMainLoop> loop{g_main_loop_new(context.get(), FALSE), g_main_loop_unref};
  const ublk_runner::MainContext posts{context.get()};
  std::thread thread;
};

ServedHandler::ServedHandler(fake::Driver& driver, const std::string& handler_dir,
                             const DeviceConfig& device, unsigned io_threads)
    : loop_(std::make_unique<MainLoop>()) {
  ublk_runner::Config config;
  config.io_threads = io_threads;
  config.devices.push_back(device);
  std::promise<StartSummary> started;
  loop_->call([&] {
    ublk_runner::RunnerOptions options;
    options.handler_dir = handler_dir;
    options.link_dir = folder_.path();
    options.driver = &driver;
    runner_ = std::make_unique<Runner>(options, loop_->context.get());
    runner_->start(config, [&](StartSummary summary) { started.set_value(std::move(summary)); });
  });
  const StartSummary summary = started.get_future().get();
  if (!summary.failed.empty()) {
    stop();
    throw std::runtime_error(summary.failed.front().cause);
  }
  ublk::Control control(driver);
  uint32_t id = 0;
  loop_->call([&] { id = runner_->devices().front()->info().dev_id; });
  params_ = control.params(id);
  disk_ = driver.disk(id);
}

ServedHandler::~ServedHandler() { stop(); }

void ServedHandler::stop() {
  disk_.reset();
  if (runner_ == nullptr) return;
  const auto stopped = std::make_shared<std::promise<void>>();
  loop_->call([&] { runner_->stop([stopped] { stopped->set_value(); }); });
  stopped->get_future().get();
  loop_->call([&] { runner_.reset(); });
}

}  // namespace ublk_check
