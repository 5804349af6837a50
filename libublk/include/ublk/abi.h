// SPDX-License-Identifier: MIT
//
// The kernel's ublk interface in one place: the numbers and structures of <linux/ublk_cmd.h>, up to
// Linux 7.3, so that nothing newer than an old distribution's headers is needed to build. A test
// holds this file against the system's header. Sizes are in bytes unless a name says sectors; a
// sector is 512 bytes, whatever the device's block size.
#ifndef UBLK_ABI_H
#define UBLK_ABI_H

#include <cstddef>
#include <cstdint>

namespace ublk::abi {

inline constexpr char kControlPath[] = "/dev/ublk-control";
inline constexpr char kCharDevicePrefix[] = "/dev/ublkc";   // + device id
inline constexpr char kBlockDevicePrefix[] = "/dev/ublkb";  // + device id

inline constexpr uint32_t kSectorSize = 512;
inline constexpr uint32_t kMaxQueueDepth = 4096;
inline constexpr uint32_t kMaxQueues = 4096;
inline constexpr uint32_t kMaxDeviceId = (1u << 20) - 1;
inline constexpr uint32_t kAnyDeviceId = UINT32_MAX;  // ADD_DEV: the kernel chooses
inline constexpr uint16_t kNoQueue = UINT16_MAX;      // queue_id of commands without a queue

// Control commands: sqe->cmd_op of an IORING_OP_URING_CMD on /dev/ublk-control.
enum class ControlOp : uint32_t {
  kGetQueueAffinity = 0x80207501,
  kGetDevInfo = 0x80207502,
  kAddDev = 0xc0207504,
  kDelDev = 0xc0207505,
  kStartDev = 0xc0207506,
  kStopDev = 0xc0207507,
  kSetParams = 0xc0207508,
  kGetParams = 0x80207509,
  kStartUserRecovery = 0xc0207510,
  kEndUserRecovery = 0xc0207511,
  kGetDevInfo2 = 0x80207512,
  kGetFeatures = 0x80207513,
  kDelDevAsync = 0x80207514,
  kUpdateSize = 0xc0207515,
  kQuiesceDev = 0xc0207516,
  kTryStopDev = 0xc0207517,
  kRegBuf = 0xc0207518,
  kUnregBuf = 0xc0207519,
};

// I/O commands: sqe->cmd_op of an IORING_OP_URING_CMD on /dev/ublkcN.
enum class IoOp : uint32_t {
  kFetchReq = 0xc0107520,
  kCommitAndFetchReq = 0xc0107521,
  kNeedGetData = 0xc0107522,
  kRegisterIoBuf = 0xc0107523,
  kUnregisterIoBuf = 0xc0107524,
  kPrepIoCmds = 0xc0107525,
  kCommitIoCmds = 0xc0107526,
  kFetchIoCmds = 0xc0107527,
};

// Results of I/O commands' CQEs, apart from -errno; -ENODEV means: aborted, do not fetch again.
inline constexpr int kIoResOk = 0;
inline constexpr int kIoResNeedGetData = 1;

// Device flags, UBLK_F_*: dev_info.flags and GET_FEATURES.
inline constexpr uint64_t kFlagSupportZeroCopy = 1ull << 0;
inline constexpr uint64_t kFlagCompInTask = 1ull << 1;
inline constexpr uint64_t kFlagNeedGetData = 1ull << 2;
inline constexpr uint64_t kFlagUserRecovery = 1ull << 3;
inline constexpr uint64_t kFlagUserRecoveryReissue = 1ull << 4;
inline constexpr uint64_t kFlagUnprivilegedDev = 1ull << 5;
inline constexpr uint64_t kFlagCmdIoctlEncode = 1ull << 6;
inline constexpr uint64_t kFlagUserCopy = 1ull << 7;
inline constexpr uint64_t kFlagZoned = 1ull << 8;
inline constexpr uint64_t kFlagUserRecoveryFailIo = 1ull << 9;
inline constexpr uint64_t kFlagUpdateSize = 1ull << 10;
inline constexpr uint64_t kFlagAutoBufReg = 1ull << 11;
inline constexpr uint64_t kFlagQuiesce = 1ull << 12;
inline constexpr uint64_t kFlagPerIoDaemon = 1ull << 13;
inline constexpr uint64_t kFlagBufRegOffDaemon = 1ull << 14;
inline constexpr uint64_t kFlagBatchIo = 1ull << 15;
inline constexpr uint64_t kFlagIntegrity = 1ull << 16;
inline constexpr uint64_t kFlagSafeStopDev = 1ull << 17;
inline constexpr uint64_t kFlagNoAutoPartScan = 1ull << 18;
inline constexpr uint64_t kFlagShmemZeroCopy = 1ull << 19;
inline constexpr uint64_t kFlagIoDescSize = 1ull << 20;

// dev_info.state.
enum class DeviceState : uint16_t { kDead = 0, kLive = 1, kQuiesced = 2, kFailIo = 3 };

// struct ublksrv_ctrl_cmd: the payload of a control command, in sqe->cmd.
struct CtrlCmd {
  uint32_t dev_id;
  uint16_t queue_id;
  uint16_t len;   // of the buffer
  uint64_t addr;  // of the buffer
  uint64_t data;  // data[0]: pid, sectors, milliseconds, queue...
  uint16_t dev_path_len;
  uint16_t pad;
  uint32_t reserved;
};
static_assert(sizeof(CtrlCmd) == 32);

// struct ublksrv_ctrl_dev_info.
struct DevInfo {
  uint16_t nr_hw_queues;
  uint16_t queue_depth;
  uint16_t state;  // DeviceState
  uint16_t pad0;
  uint32_t max_io_buf_bytes;
  uint32_t dev_id;
  int32_t ublksrv_pid;
  uint32_t pad1;
  uint64_t flags;          // kFlag*
  uint64_t ublksrv_flags;  // the server's own
  uint32_t owner_uid;
  uint32_t owner_gid;
  uint64_t reserved1;
  uint64_t reserved2;
};
static_assert(sizeof(DevInfo) == 64);

// struct ublk_params and its parts; Params.types says which parts are meant.
inline constexpr uint32_t kParamBasic = 1u << 0;
inline constexpr uint32_t kParamDiscard = 1u << 1;
inline constexpr uint32_t kParamDevt = 1u << 2;  // GET only: SET with it fails
inline constexpr uint32_t kParamZoned = 1u << 3;
inline constexpr uint32_t kParamDmaAlign = 1u << 4;
inline constexpr uint32_t kParamSegment = 1u << 5;
inline constexpr uint32_t kParamIntegrity = 1u << 6;

inline constexpr uint32_t kAttrReadOnly = 1u << 0;
inline constexpr uint32_t kAttrRotational = 1u << 1;
inline constexpr uint32_t kAttrVolatileCache = 1u << 2;
inline constexpr uint32_t kAttrFua = 1u << 3;

struct ParamBasic {
  uint32_t attrs;  // kAttr*
  uint8_t logical_bs_shift;
  uint8_t physical_bs_shift;
  uint8_t io_opt_shift;
  uint8_t io_min_shift;
  uint32_t max_sectors;
  uint32_t chunk_sectors;
  uint64_t dev_sectors;
  uint64_t virt_boundary_mask;
};
struct ParamDiscard {
  uint32_t discard_alignment;    // bytes
  uint32_t discard_granularity;  // bytes, never 0
  uint32_t max_discard_sectors;
  uint32_t max_write_zeroes_sectors;
  uint16_t max_discard_segments;
  uint16_t reserved;
};
struct ParamDevt {
  uint32_t char_major;
  uint32_t char_minor;
  uint32_t disk_major;
  uint32_t disk_minor;
};
struct ParamZoned {
  uint32_t max_open_zones;
  uint32_t max_active_zones;
  uint32_t max_zone_append_sectors;
  uint8_t reserved[20];
};
struct ParamDmaAlign {
  uint32_t alignment;  // a mask: alignment + 1 is a power of two
  uint8_t pad[4];
};
struct ParamSegment {
  uint64_t seg_boundary_mask;
  uint32_t max_segment_size;
  uint16_t max_segments;
  uint8_t pad[2];
};
struct ParamIntegrity {
  uint32_t flags;
  uint16_t max_integrity_segments;
  uint8_t interval_exp;
  uint8_t metadata_size;
  uint8_t pi_offset;
  uint8_t csum_type;
  uint8_t tag_size;
  uint8_t pad[5];
};
struct Params {
  uint32_t len;    // sizeof(Params)
  uint32_t types;  // kParam*
  ParamBasic basic;
  ParamDiscard discard;
  ParamDevt devt;
  ParamZoned zoned;
  ParamDmaAlign dma;
  ParamSegment seg;
  ParamIntegrity integrity;
};
static_assert(offsetof(Params, basic) == 8 && offsetof(Params, discard) == 40 &&
              offsetof(Params, devt) == 60 && offsetof(Params, zoned) == 76 &&
              offsetof(Params, dma) == 108 && offsetof(Params, seg) == 120 &&
              offsetof(Params, integrity) == 136 && sizeof(Params) == 152);

// struct ublksrv_io_desc: a request, in the mapping of /dev/ublkcN.
struct IoDesc {
  uint32_t op_flags;    // operation in the low 8 bits, kIoFlag* in the others
  uint32_t nr_sectors;  // or nr_zones
  uint64_t start_sector;
  uint64_t addr;
};
static_assert(sizeof(IoDesc) == 24);

inline constexpr uint32_t kOpMask = 0xff;
inline constexpr uint32_t kIoFlagFailfastDev = 1u << 8;
inline constexpr uint32_t kIoFlagFailfastTransport = 1u << 9;
inline constexpr uint32_t kIoFlagFailfastDriver = 1u << 10;
inline constexpr uint32_t kIoFlagMeta = 1u << 11;
inline constexpr uint32_t kIoFlagFua = 1u << 13;
inline constexpr uint32_t kIoFlagNoUnmap = 1u << 15;
inline constexpr uint32_t kIoFlagSwap = 1u << 16;
inline constexpr uint32_t kIoFlagNeedRegBuf = 1u << 17;
inline constexpr uint32_t kIoFlagIntegrity = 1u << 18;
inline constexpr uint32_t kIoFlagShmemZeroCopy = 1u << 19;

// struct ublksrv_io_cmd: the payload of an I/O command, in sqe->cmd.
struct IoCmd {
  uint16_t q_id;
  uint16_t tag;
  int32_t result;  // COMMIT: bytes or -errno
  uint64_t addr;   // of the buffer, or the zone append's sector
};
static_assert(sizeof(IoCmd) == 16);

// kFlagBatchIo. struct ublk_batch_io: the payload of kPrepIoCmds, kCommitIoCmds and kFetchIoCmds.
// The elements of the first two are at sqe->addr. CQEs: PREP 0, all or nothing; COMMIT the bytes of
// elements that were taken, perhaps not all, or -errno if none; FETCH, which is multishot, the
// bytes of tags (2 each) in the provided buffer. All of a device's data goes one way, so the
// elements of all its commands have the same flags and size.
struct BatchIo {
  uint16_t q_id;
  uint16_t flags;    // kBatch*; FETCH 0
  uint16_t nr_elem;  // FETCH 0
  uint8_t elem_bytes;
  uint8_t reserved;
  uint64_t reserved2;
};
static_assert(sizeof(BatchIo) == 16);
inline constexpr uint16_t kBatchHasZoneLba = 1u << 0;
inline constexpr uint16_t kBatchHasBufAddr = 1u << 1;  // copy mode: needed, else refused
inline constexpr uint16_t kBatchAutoBufRegFallback = 1u << 2;

// struct ublk_elem_header, and the address with kBatchHasBufAddr.
struct BatchElement {
  uint16_t tag;
  uint16_t buf_index;  // with kFlagAutoBufReg: where to register the data of the next request
  int32_t result;      // COMMIT: as in IoCmd
  uint64_t buf_addr;   // not there without kBatchHasBufAddr
};
static_assert(sizeof(BatchElement) == 16 && offsetof(BatchElement, buf_addr) == 8);
inline constexpr uint8_t kBatchTagBytes = 2;    // elem_bytes of FETCH
inline constexpr unsigned kBatchMaxTags = 128;  // that one CQE of FETCH brings

// kFlagAutoBufReg, sqe->addr of FETCH and COMMIT_AND_FETCH: the slot of the ring's buffer table in
// which the data of the tag's next read or write is registered, and whether the request comes
// without (kIoFlagNeedRegBuf) if that fails; else it fails, and the server never hears of it.
inline constexpr uint64_t kAutoBufRegFallback = 1ull << 16;

// The layout of /dev/ublkcN. Descriptors: map one queue's, read-only, at its offset.
inline constexpr uint64_t kDescriptorStride = kMaxQueueDepth * sizeof(IoDesc);  // a queue's share
// User copy: pread and pwrite of a request's data at user_copy_offset().
inline constexpr uint64_t kUserCopyBase = 0x80000000;
inline constexpr unsigned kUserCopyTagShift = 25;
inline constexpr unsigned kUserCopyQueueShift = 41;
inline constexpr uint32_t kUserCopyMaxIoBytes = 1u << kUserCopyTagShift;

constexpr uint64_t user_copy_offset(uint16_t queue, uint16_t tag, uint32_t offset) {
  return kUserCopyBase + (uint64_t{queue} << kUserCopyQueueShift) +
         (uint64_t{tag} << kUserCopyTagShift) + offset;
}

}  // namespace ublk::abi

#endif  // UBLK_ABI_H
