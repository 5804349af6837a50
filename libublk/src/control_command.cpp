// SPDX-License-Identifier: MIT
// What each control command says to the kernel, and how its answer is read.
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "ublk/control.h"

namespace ublk {

namespace {

struct CommandName {
  abi::ControlOp op;
  const char* name;
};

constexpr CommandName kCommandNames[] = {
    {abi::ControlOp::kGetQueueAffinity, "GET_QUEUE_AFFINITY"},
    {abi::ControlOp::kGetDevInfo, "GET_DEV_INFO"},
    {abi::ControlOp::kAddDev, "ADD_DEV"},
    {abi::ControlOp::kDelDev, "DEL_DEV"},
    {abi::ControlOp::kStartDev, "START_DEV"},
    {abi::ControlOp::kStopDev, "STOP_DEV"},
    {abi::ControlOp::kSetParams, "SET_PARAMS"},
    {abi::ControlOp::kGetParams, "GET_PARAMS"},
    {abi::ControlOp::kStartUserRecovery, "START_USER_RECOVERY"},
    {abi::ControlOp::kEndUserRecovery, "END_USER_RECOVERY"},
    {abi::ControlOp::kGetDevInfo2, "GET_DEV_INFO2"},
    {abi::ControlOp::kGetFeatures, "GET_FEATURES"},
    {abi::ControlOp::kDelDevAsync, "DEL_DEV_ASYNC"},
    {abi::ControlOp::kUpdateSize, "UPDATE_SIZE"},
    {abi::ControlOp::kQuiesceDev, "QUIESCE_DEV"},
    {abi::ControlOp::kTryStopDev, "TRY_STOP_DEV"},
};

template <class T>
T from_buffer(const std::vector<unsigned char>& buffer) {
  T value;
  std::memcpy(&value, buffer.data(), sizeof(T));
  return value;
}

}  // namespace

Command::Command(abi::ControlOp op, uint32_t device_id, size_t buffer_size, uint64_t data)
    : op_(op), device_id_(device_id), data_(data), buffer_(buffer_size) {}

Command Command::add(const abi::DevInfo& info) {
  Command command(abi::ControlOp::kAddDev, info.dev_id, sizeof(info));
  std::memcpy(command.buffer_.data(), &info, sizeof(info));
  return command;
}

Command Command::del(uint32_t id) { return {abi::ControlOp::kDelDev, id, 0}; }
Command Command::del_async(uint32_t id) { return {abi::ControlOp::kDelDevAsync, id, 0}; }
Command Command::start(uint32_t id, int server_pid) {
  return {abi::ControlOp::kStartDev, id, 0, static_cast<uint64_t>(server_pid)};
}
Command Command::stop(uint32_t id) { return {abi::ControlOp::kStopDev, id, 0}; }
Command Command::try_stop(uint32_t id) { return {abi::ControlOp::kTryStopDev, id, 0}; }

Command Command::set_params(uint32_t id, const abi::Params& params) {
  Command command(abi::ControlOp::kSetParams, id, sizeof(params));
  abi::Params copy = params;
  copy.len = sizeof(copy);
  std::memcpy(command.buffer_.data(), &copy, sizeof(copy));
  return command;
}

Command Command::get_params(uint32_t id) {
  Command command(abi::ControlOp::kGetParams, id, sizeof(abi::Params));
  abi::Params params{};
  params.len = sizeof(params);
  std::memcpy(command.buffer_.data(), &params, sizeof(params));
  return command;
}

Command Command::get_info(uint32_t id) {
  return {abi::ControlOp::kGetDevInfo, id, sizeof(abi::DevInfo)};
}

Command Command::get_features() {
  return {abi::ControlOp::kGetFeatures, abi::kAnyDeviceId, sizeof(uint64_t)};
}

Command Command::get_queue_affinity(uint32_t id, uint16_t queue) {
  const auto cpus = static_cast<size_t>(std::max(1L, sysconf(_SC_NPROCESSORS_CONF)));
  // The kernel wants room for its own idea of the CPUs, which hot-plug can make larger than ours.
  const size_t bytes = std::max<size_t>(128, (cpus + 63) / 64 * 8);
  return {abi::ControlOp::kGetQueueAffinity, id, bytes, queue};
}

Command Command::start_recovery(uint32_t id) { return {abi::ControlOp::kStartUserRecovery, id, 0}; }
Command Command::end_recovery(uint32_t id, int server_pid) {
  return {abi::ControlOp::kEndUserRecovery, id, 0, static_cast<uint64_t>(server_pid)};
}
Command Command::update_size(uint32_t id, uint64_t sectors) {
  return {abi::ControlOp::kUpdateSize, id, 0, sectors};
}
Command Command::quiesce(uint32_t id, uint64_t timeout_ms) {
  return {abi::ControlOp::kQuiesceDev, id, 0, timeout_ms};
}

const char* Command::name() const {
  for (const CommandName& entry : kCommandNames)
    if (entry.op == op_) return entry.name;
  return "control command";
}

abi::DevInfo Command::info() const { return from_buffer<abi::DevInfo>(buffer_); }

abi::Params Command::params() const {
  auto params = from_buffer<abi::Params>(buffer_);
  params.types &= ~abi::kParamDevt;
  return params;
}

uint64_t Command::features() const { return from_buffer<uint64_t>(buffer_); }

std::vector<bool> Command::affinity() const {
  std::vector<bool> cpus(buffer_.size() * 8);
  for (size_t cpu = 0; cpu < cpus.size(); ++cpu)
    cpus[cpu] = ((buffer_[cpu / 8] >> (cpu % 8)) & 1) != 0;
  return cpus;
}

}  // namespace ublk
