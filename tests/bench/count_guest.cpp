// SPDX-License-Identifier: MIT
//
// A plugin of QEMU's: counts the instructions that each CPU of an emulated machine executes, by the
// address of the block of code that they are in. A program in the guest says when to begin and when
// to write down what was counted, by an instruction that does nothing, see count_marks.h.
//
//   -plugin libbench_count_guest.so,folder=FOLDER
//
// FOLDER/0, FOLDER/1 and so on, a line for each block: its address, its instructions, and how often
// each CPU has run it. A string instruction counts once for each step.
#include <array>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "count_marks.h"
#include "qemu_plugin.h"

namespace {

constexpr unsigned kMaxCpus = 8;

struct Block {
  uint64_t address;
  size_t instructions;
  std::array<uint64_t, kMaxCpus> runs;  // each written by its CPU's thread alone
};

class Counters {
 public:
  Block& block(uint64_t address, size_t instructions) {
    const std::lock_guard lock(mutex_);
    auto& block = blocks_[{address, instructions}];
    if (!block) block = std::make_unique<Block>(Block{address, instructions, {}});
    return *block;
  }

  // What the CPUs count at this moment may be lost.
  void begin() {
    const std::lock_guard lock(mutex_);
    for (auto& [key, block] : blocks_) block->runs = {};
  }

  void write() {
    const std::lock_guard lock(mutex_);
    const std::string path = folder + '/' + std::to_string(nr_written_++);
    const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen((path + ".new").c_str(), "w"),
                                                     std::fclose);
    if (!file) return std::perror(path.c_str());
    for (const auto& [key, block] : blocks_) {
      if (block->runs == decltype(block->runs){}) continue;
      std::fprintf(file.get(), "%" PRIx64 " %zu", block->address, block->instructions);
      for (const uint64_t runs : block->runs) std::fprintf(file.get(), " %" PRIu64, runs);
      std::fputc('\n', file.get());
    }
    std::fflush(file.get());
    std::rename((path + ".new").c_str(), path.c_str());
  }

  std::string folder = ".";

 private:
  std::mutex mutex_;
  std::map<std::pair<uint64_t, size_t>, std::unique_ptr<Block>> blocks_;
  unsigned nr_written_ = 0;
};

// QEMU calls into the plugin until its process ends.
Counters& counters() {
  static auto* const all = new Counters;
  return *all;
}

void count(unsigned cpu, void* block) { ++static_cast<Block*>(block)->runs[cpu % kMaxCpus]; }

void mark(unsigned, void* number) {
  if (reinterpret_cast<uintptr_t>(number) == COUNT_BEGIN)
    counters().begin();
  else
    counters().write();
}

bool is_mark(const qemu_plugin_insn* instruction, uint32_t number) {
  const unsigned char bytes[] = {COUNT_MARK_OPCODE, static_cast<unsigned char>(number),
                                 static_cast<unsigned char>(number >> 8),
                                 static_cast<unsigned char>(number >> 16),
                                 static_cast<unsigned char>(number >> 24)};
  return qemu_plugin_insn_size(instruction) == sizeof(bytes) &&
         std::memcmp(qemu_plugin_insn_data(instruction), bytes, sizeof(bytes)) == 0;
}

void translated(qemu_plugin_id_t, qemu_plugin_tb* tb) {
  const size_t instructions = qemu_plugin_tb_n_insns(tb);
  qemu_plugin_register_vcpu_tb_exec_cb(tb, count, QEMU_PLUGIN_CB_NO_REGS,
                                       &counters().block(qemu_plugin_tb_vaddr(tb), instructions));
  for (size_t i = 0; i < instructions; ++i) {
    qemu_plugin_insn* instruction = qemu_plugin_tb_get_insn(tb, i);
    for (const uint32_t number : {COUNT_BEGIN, COUNT_END})
      if (is_mark(instruction, number))
        qemu_plugin_register_vcpu_insn_exec_cb(instruction, mark, QEMU_PLUGIN_CB_NO_REGS,
                                               reinterpret_cast<void*>(uintptr_t{number}));
  }
}

}  // namespace

int qemu_plugin_version = kQemuPluginVersion;

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t*, int argc, char** argv) {
  constexpr const char* kFolder = "folder=";
  for (int i = 0; i < argc; ++i)
    if (std::strncmp(argv[i], kFolder, std::strlen(kFolder)) == 0)
      counters().folder = argv[i] + std::strlen(kFolder);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  return 0;
}
