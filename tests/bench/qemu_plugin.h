// SPDX-License-Identifier: MIT
//
// What count_guest.cpp uses of the interface that QEMU 7.2 has for plugins, version 1 (documented
// in QEMU's "TCG Plugins"). Debian packages no header of it.
#ifndef UBLK_BENCH_QEMU_PLUGIN_H
#define UBLK_BENCH_QEMU_PLUGIN_H

#include <cstddef>
#include <cstdint>

inline constexpr int kQemuPluginVersion = 1;

struct qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
using qemu_plugin_id_t = uint64_t;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

extern "C" {
// Of the plugin.
extern int qemu_plugin_version;
int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc, char** argv);

// Of QEMU.
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t, qemu_plugin_tb*));
void qemu_plugin_register_vcpu_tb_exec_cb(qemu_plugin_tb* tb, void (*callback)(unsigned cpu, void*),
                                          qemu_plugin_cb_flags flags, void* argument);
void qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_insn* instruction,
                                            void (*callback)(unsigned cpu, void*),
                                            qemu_plugin_cb_flags flags, void* argument);
size_t qemu_plugin_tb_n_insns(const qemu_plugin_tb* tb);
uint64_t qemu_plugin_tb_vaddr(const qemu_plugin_tb* tb);
qemu_plugin_insn* qemu_plugin_tb_get_insn(const qemu_plugin_tb* tb, size_t index);
const void* qemu_plugin_insn_data(const qemu_plugin_insn* instruction);
size_t qemu_plugin_insn_size(const qemu_plugin_insn* instruction);
}

#endif  // UBLK_BENCH_QEMU_PLUGIN_H
