// SPDX-License-Identifier: MIT
// Holds ublk/abi.h against the system's <linux/ublk_cmd.h>: whatever that one knows must agree, and
// what it does not know yet is skipped. Nearly all of it is checked by the compiler.
#include <gtest/gtest.h>
#include <linux/ublk_cmd.h>
#include <sys/ioctl.h>
#include <ublk/abi.h>
#include <ublk/handler.h>

#include <cstddef>

namespace uapi = ublk::abi;

#define SAME_FIELD(ours, our_field, theirs, their_field)                      \
  static_assert(offsetof(ours, our_field) == offsetof(theirs, their_field) && \
                sizeof(ours::our_field) == sizeof(theirs::their_field))

static_assert(sizeof(uapi::CtrlCmd) == sizeof(ublksrv_ctrl_cmd));
SAME_FIELD(uapi::CtrlCmd, dev_id, ublksrv_ctrl_cmd, dev_id);
SAME_FIELD(uapi::CtrlCmd, queue_id, ublksrv_ctrl_cmd, queue_id);
SAME_FIELD(uapi::CtrlCmd, len, ublksrv_ctrl_cmd, len);
SAME_FIELD(uapi::CtrlCmd, addr, ublksrv_ctrl_cmd, addr);

static_assert(sizeof(uapi::DevInfo) == sizeof(ublksrv_ctrl_dev_info));
SAME_FIELD(uapi::DevInfo, nr_hw_queues, ublksrv_ctrl_dev_info, nr_hw_queues);
SAME_FIELD(uapi::DevInfo, queue_depth, ublksrv_ctrl_dev_info, queue_depth);
SAME_FIELD(uapi::DevInfo, state, ublksrv_ctrl_dev_info, state);
SAME_FIELD(uapi::DevInfo, max_io_buf_bytes, ublksrv_ctrl_dev_info, max_io_buf_bytes);
SAME_FIELD(uapi::DevInfo, dev_id, ublksrv_ctrl_dev_info, dev_id);
SAME_FIELD(uapi::DevInfo, ublksrv_pid, ublksrv_ctrl_dev_info, ublksrv_pid);
SAME_FIELD(uapi::DevInfo, flags, ublksrv_ctrl_dev_info, flags);
SAME_FIELD(uapi::DevInfo, ublksrv_flags, ublksrv_ctrl_dev_info, ublksrv_flags);

static_assert(sizeof(uapi::IoDesc) == sizeof(ublksrv_io_desc));
SAME_FIELD(uapi::IoDesc, op_flags, ublksrv_io_desc, op_flags);
SAME_FIELD(uapi::IoDesc, nr_sectors, ublksrv_io_desc, nr_sectors);
SAME_FIELD(uapi::IoDesc, start_sector, ublksrv_io_desc, start_sector);
SAME_FIELD(uapi::IoDesc, addr, ublksrv_io_desc, addr);

static_assert(sizeof(uapi::IoCmd) == sizeof(ublksrv_io_cmd));
SAME_FIELD(uapi::IoCmd, q_id, ublksrv_io_cmd, q_id);
SAME_FIELD(uapi::IoCmd, tag, ublksrv_io_cmd, tag);
SAME_FIELD(uapi::IoCmd, result, ublksrv_io_cmd, result);
SAME_FIELD(uapi::IoCmd, addr, ublksrv_io_cmd, addr);

SAME_FIELD(uapi::Params, len, ublk_params, len);
SAME_FIELD(uapi::Params, types, ublk_params, types);
SAME_FIELD(uapi::Params, basic, ublk_params, basic);
SAME_FIELD(uapi::Params, discard, ublk_params, discard);
SAME_FIELD(uapi::ParamBasic, attrs, ublk_param_basic, attrs);
SAME_FIELD(uapi::ParamBasic, logical_bs_shift, ublk_param_basic, logical_bs_shift);
SAME_FIELD(uapi::ParamBasic, physical_bs_shift, ublk_param_basic, physical_bs_shift);
SAME_FIELD(uapi::ParamBasic, io_opt_shift, ublk_param_basic, io_opt_shift);
SAME_FIELD(uapi::ParamBasic, io_min_shift, ublk_param_basic, io_min_shift);
SAME_FIELD(uapi::ParamBasic, max_sectors, ublk_param_basic, max_sectors);
SAME_FIELD(uapi::ParamBasic, chunk_sectors, ublk_param_basic, chunk_sectors);
SAME_FIELD(uapi::ParamBasic, dev_sectors, ublk_param_basic, dev_sectors);
SAME_FIELD(uapi::ParamBasic, virt_boundary_mask, ublk_param_basic, virt_boundary_mask);
SAME_FIELD(uapi::ParamDiscard, discard_alignment, ublk_param_discard, discard_alignment);
SAME_FIELD(uapi::ParamDiscard, discard_granularity, ublk_param_discard, discard_granularity);
SAME_FIELD(uapi::ParamDiscard, max_discard_sectors, ublk_param_discard, max_discard_sectors);
SAME_FIELD(uapi::ParamDiscard, max_write_zeroes_sectors, ublk_param_discard,
           max_write_zeroes_sectors);
SAME_FIELD(uapi::ParamDiscard, max_discard_segments, ublk_param_discard, max_discard_segments);

static_assert(uint8_t(ublk::abi::ControlOp::kAddDev) == UBLK_CMD_ADD_DEV);
static_assert(uint8_t(ublk::abi::ControlOp::kDelDev) == UBLK_CMD_DEL_DEV);
static_assert(uint8_t(ublk::abi::ControlOp::kStartDev) == UBLK_CMD_START_DEV);
static_assert(uint8_t(ublk::abi::ControlOp::kStopDev) == UBLK_CMD_STOP_DEV);
static_assert(uint8_t(ublk::abi::ControlOp::kSetParams) == UBLK_CMD_SET_PARAMS);
static_assert(uint8_t(ublk::abi::ControlOp::kGetParams) == UBLK_CMD_GET_PARAMS);
static_assert(uint8_t(ublk::abi::ControlOp::kGetDevInfo) == UBLK_CMD_GET_DEV_INFO);
static_assert(uint8_t(ublk::abi::ControlOp::kGetQueueAffinity) == UBLK_CMD_GET_QUEUE_AFFINITY);
static_assert(uint8_t(ublk::abi::IoOp::kFetchReq) == UBLK_IO_FETCH_REQ);
static_assert(uint8_t(ublk::abi::IoOp::kCommitAndFetchReq) == UBLK_IO_COMMIT_AND_FETCH_REQ);

static_assert(uapi::kFlagSupportZeroCopy == UBLK_F_SUPPORT_ZERO_COPY);
static_assert(uapi::kFlagCompInTask == UBLK_F_URING_CMD_COMP_IN_TASK);
static_assert(uapi::kIoFlagFua == UBLK_IO_F_FUA);
static_assert(uapi::kIoFlagMeta == UBLK_IO_F_META);
static_assert(uapi::kIoFlagNoUnmap == UBLK_IO_F_NOUNMAP);
static_assert(uapi::kIoFlagSwap == UBLK_IO_F_SWAP);
static_assert(uapi::kMaxQueueDepth == UBLK_MAX_QUEUE_DEPTH);

static_assert(UBLK_OP_READ == UBLK_IO_OP_READ && UBLK_OP_WRITE == UBLK_IO_OP_WRITE);
static_assert(UBLK_OP_FLUSH == UBLK_IO_OP_FLUSH && UBLK_OP_DISCARD == UBLK_IO_OP_DISCARD);
static_assert(UBLK_OP_WRITE_ZEROES == UBLK_IO_OP_WRITE_ZEROES);

// Newer headers have the encoded commands and later flags.
#ifdef UBLK_U_CMD_ADD_DEV
static_assert(uint32_t(uapi::ControlOp::kAddDev) == UBLK_U_CMD_ADD_DEV);
static_assert(uint32_t(uapi::ControlOp::kGetFeatures) == UBLK_U_CMD_GET_FEATURES);
static_assert(uint32_t(uapi::IoOp::kFetchReq) == UBLK_U_IO_FETCH_REQ);
static_assert(uint32_t(uapi::IoOp::kCommitAndFetchReq) == UBLK_U_IO_COMMIT_AND_FETCH_REQ);
static_assert(uint32_t(uapi::IoOp::kNeedGetData) == UBLK_U_IO_NEED_GET_DATA);
#endif
#ifdef UBLK_U_CMD_DEL_DEV_ASYNC
static_assert(uint32_t(uapi::ControlOp::kDelDevAsync) == UBLK_U_CMD_DEL_DEV_ASYNC);
#endif
#ifdef UBLK_U_CMD_UPDATE_SIZE
static_assert(uint32_t(uapi::ControlOp::kUpdateSize) == UBLK_U_CMD_UPDATE_SIZE);
static_assert(uint32_t(uapi::ControlOp::kQuiesceDev) == UBLK_U_CMD_QUIESCE_DEV);
static_assert(uapi::kFlagAutoBufReg == UBLK_F_AUTO_BUF_REG);
static_assert(uapi::kFlagUpdateSize == UBLK_F_UPDATE_SIZE);
static_assert(uapi::kFlagQuiesce == UBLK_F_QUIESCE);
static_assert(uint32_t(uapi::IoOp::kRegisterIoBuf) == UBLK_U_IO_REGISTER_IO_BUF);
static_assert(sizeof(uapi::ParamSegment) == sizeof(ublk_param_segment));
#endif
#ifdef UBLK_F_USER_COPY
static_assert(uapi::kFlagUserCopy == UBLK_F_USER_COPY);
static_assert(uapi::kUserCopyBase == UBLKSRV_IO_BUF_OFFSET);
static_assert(uapi::kUserCopyTagShift == UBLK_TAG_OFF && uapi::kUserCopyQueueShift == UBLK_QID_OFF);
#endif
#ifdef UBLK_F_BATCH_IO
static_assert(uapi::kFlagBatchIo == UBLK_F_BATCH_IO);
static_assert(uint32_t(uapi::IoOp::kFetchIoCmds) == UBLK_U_IO_FETCH_IO_CMDS);
static_assert(sizeof(uapi::ParamIntegrity) == sizeof(ublk_param_integrity));
#endif

TEST(Abi, UserCopyOffsetsDoNotOverlap) {
  EXPECT_EQ(uapi::user_copy_offset(0, 0, 0), 0x80000000u);
  EXPECT_EQ(uapi::user_copy_offset(0, 1, 0) - uapi::user_copy_offset(0, 0, 0),
            uapi::kUserCopyMaxIoBytes);
  EXPECT_GT(uapi::user_copy_offset(1, 0, 0),
            uapi::user_copy_offset(0, uapi::kMaxQueueDepth - 1, uapi::kUserCopyMaxIoBytes - 1));
}
