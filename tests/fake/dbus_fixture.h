// SPDX-License-Identifier: MIT
// A runner on the in-process driver, and clients of its socket.
#ifndef UBLK_TESTS_FAKE_DBUS_FIXTURE_H
#define UBLK_TESTS_FAKE_DBUS_FIXTURE_H

#include <ctl/runner_client.h>
#include <dbus_server.h>
#include <gio/gio.h>
#include <reload.h>
#include <runner.h>

#include <atomic>
#include <exception>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>

#include "fixture.h"
#include "support/test_data.h"

namespace fake {

using ublk_ctl::Call;
using ublk_ctl::CommandError;
using ublk_ctl::Json;
using ublk_ctl::RunnerClient;
using ublk_runner::Reloader;
using ublk_runner::Runner;

using Settings = std::map<std::string, std::string>;

class DbusTest : public FakeTest {
 protected:
  void SetUp() override {
    FakeTest::SetUp();
    if (IsSkipped()) return;
    write_config("[device first]\nhandler = null\nsize = 8M\n");
    start();
  }
  void TearDown() override {
    if (runner_) stop();
    FakeTest::TearDown();
  }

  void write_config(const std::string& devices) {
    std::ofstream(config()) << "[runner]\nbuffer_memory = 64M\n" << devices;
  }
  std::string config() const { return dir_ + "/conf"; }
  std::string config_dir() const { return config() + ".d"; }
  std::string socket() const { return dir_ + "/bus"; }

  void start() {
    ublk_runner::RunnerOptions options;
    options.handler_dir = UBLK_TEST_HANDLERS;
    options.link_dir = dir_ + "/ublk";
    options.driver = &driver();
    if (unused_)
      options.users = [](const std::string&) { return std::vector<ublk_runner::DeviceUser>(); };
    runner_.emplace(options);
    reloader_.emplace(*runner_, config(), UBLK_TEST_HANDLERS);
    bool done = false;
    ublk_runner::Config loaded = ublk_runner::load_config(config());
    loaded.handler_dir = UBLK_TEST_HANDLERS;
    runner_->start(loaded, [&](ublk_runner::StartSummary) { done = true; });
    while (!done) g_main_context_iteration(nullptr, TRUE);
    server_.emplace(*runner_, *reloader_, config(), socket(), false);
  }

  bool unused_ = false;  // nobody uses a device; else it can't be told here

  void stop() {
    bool done = false;
    runner_->stop([&] { done = true; });
    while (!done) g_main_context_iteration(nullptr, TRUE);
    server_.reset();
    while (g_main_context_iteration(nullptr, FALSE)) {
    }
    reloader_.reset();
    runner_.reset();
  }

  // Runs `client` on a thread of its own while this one is the control thread.
  static void run_client(const std::function<void()>& client) {
    std::atomic<bool> done{false};
    std::exception_ptr failure;
    std::thread thread([&] {
      try {
        client();
      } catch (...) {
        failure = std::current_exception();
      }
      done = true;
      g_main_context_wakeup(nullptr);
    });
    while (!done) g_main_context_iteration(nullptr, TRUE);
    thread.join();
    if (failure) std::rethrow_exception(failure);
  }

  Call call() const {
    Call call;
    call.options["socket"] = socket();
    return call;
  }
  void with_client(const std::function<void(RunnerClient&)>& client) {
    run_client([&] {
      RunnerClient connected(call());
      client(connected);
    });
  }

  static CommandError error_of(const std::function<void()>& client) {
    try {
      client();
    } catch (const CommandError& e) {
      return e;
    }
    ADD_FAILURE() << "no error";
    return {ublk_ctl::kExitOk, ""};
  }

  Settings file_settings(const std::string& name) const {
    return {{"handler", "file"},
            {"path", dir_ + '/' + name},
            {"size", "8M"},
            {"create", "true"},
            {"queue_depth", "32"}};
  }

  const test::TempDir folder_;
  const std::string dir_ = folder_.path();
  std::optional<Runner> runner_;
  std::optional<Reloader> reloader_;
  std::optional<ublk_runner::DbusServer> server_;
};

}  // namespace fake

#endif  // UBLK_TESTS_FAKE_DBUS_FIXTURE_H
