// SPDX-License-Identifier: MIT
// The commands of a server, rightly and wrongly used.
#include <cstring>
#include <thread>
#include <vector>

#include "kernel_bugs.h"
#include "scenario.h"

namespace conformance {
namespace {

using ProtocolScenario = Scenario;

TEST_F(ProtocolScenario, FetchIsChecked) {
  const abi::DevInfo info = add(spec_of(2));
  {
    RawServer server(rig().driver(), info);
    const uint64_t address = server.address(0);
    server.command(IoOp::kFetchReq, {.q_id = 1, .tag = 0, .result = 0, .addr = address});
    EXPECT_EQ(server.wait().result, -EINVAL) << "no such queue";
    server.command(IoOp::kFetchReq, {.q_id = 0, .tag = 2, .result = 0, .addr = address});
    EXPECT_EQ(server.wait().result, -EINVAL) << "no such tag";
    server.command(IoOp::kFetchReq, {.q_id = 0, .tag = 0, .result = 0, .addr = 0});
    EXPECT_EQ(server.wait().result, -EINVAL) << "no buffer in copy mode";
    server.commit(0, 0);
    EXPECT_EQ(server.wait().result, -EINVAL) << "nobody's tag";
    server.fetch(0);
    server.fetch(0);
    EXPECT_EQ(server.wait(), (Answer{0, has(abi::kFlagPerIoDaemon) ? -EINVAL : -EBUSY})) << "twice";
    server.fetch(1);
    server.fetch(1);
    EXPECT_EQ(server.wait(), (Answer{1, -EBUSY})) << "all are fetched";
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
    EXPECT_EQ(server.wait().result, -ENODEV);
    EXPECT_EQ(server.wait().result, -ENODEV);
    server.fetch(0);
    EXPECT_LT(server.wait().result, 0) << "after STOP";
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(ProtocolScenario, CommitIsForWhatTheServerHas) {
  const abi::DevInfo info = add(spec_of(2));
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, info.dev_id), 0);
    for (const uint16_t tag : {0, 1}) {
      server.commit(tag, 512);
      EXPECT_EQ(server.wait(), (Answer{tag, -EBUSY})) << "the kernel has it";
    }
    server.command(IoOp::kNeedGetData,
                   {.q_id = 0, .tag = 0, .result = 0, .addr = server.address(0)});
    EXPECT_LT(server.wait().result, 0) << "not in this mode";
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(ProtocolScenario, CommitIsItsDaemonsOnly) {
  const abi::DevInfo info = add(spec_of(1));
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    EXPECT_EQ(start(server, info.dev_id), 0);
    const auto disk = open_disk(info.dev_id);
    std::vector<std::byte> data(512);
    Pending read(*disk, {.data = data.data()});
    EXPECT_EQ(server.wait(), (Answer{0, 0}));
    std::thread([&] {
      server.commit(0, 512);
      EXPECT_EQ(server.wait(), (Answer{0, -EINVAL}));
    }).join();
    std::memset(server.buffer(0), 'a', 512);
    server.commit(0, 512);
    EXPECT_EQ(read.result(), 0);
    EXPECT_EQ(data[511], std::byte{'a'});
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

// Linux 6.12 knows daemons of queues, not of tags.
TEST_F(ProtocolScenario, AThreadServesATagOrAQueue) {
  if (rig().has(kLastFetcherIsDaemon)) GTEST_SKIP() << kLastFetcherIsDaemon.name;
  const abi::DevInfo info = add(spec_of(2));
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    std::promise<void> ended;
    std::promise<void> submitted;
    // It stays: a thread that ends takes its commands with it.
    std::jthread other([&, end = ended.get_future()] {
      server.fetch(1);
      submitted.set_value();
      end.wait();
    });
    submitted.get_future().wait();
    if (has(abi::kFlagPerIoDaemon))
      EXPECT_EQ(server.poll(20ms), std::nullopt);
    else
      EXPECT_EQ(server.wait(), (Answer{1, -EINVAL}));
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
    ended.set_value();
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(ProtocolScenario, GetDataOfferMustBeTaken) {
  const abi::DevInfo info = add(spec_of(1, abi::kFlagNeedGetData));
  {
    RawServer server(rig().driver(), info);
    server.command(IoOp::kFetchReq, {.q_id = 0, .tag = 0, .result = 0, .addr = 0});
    EXPECT_EQ(start(server, info.dev_id), 0);
    const auto disk = open_disk(info.dev_id);
    std::vector<std::byte> data(512, std::byte{'w'});
    Pending write(*disk, {.op = Operation::kWrite, .data = data.data()});
    EXPECT_EQ(server.wait(), (Answer{0, abi::kIoResNeedGetData}));
    server.commit(0, -EIO);
    EXPECT_EQ(server.wait(), (Answer{0, -EINVAL})) << "the data first, even to fail";
    server.command(IoOp::kNeedGetData,
                   {.q_id = 0, .tag = 0, .result = 0, .addr = server.address(0)});
    EXPECT_EQ(server.wait(), (Answer{0, 0}));
    EXPECT_EQ(server.buffer(0)[511], std::byte{'w'});
    server.commit(0, 512);
    EXPECT_EQ(write.result(), 0);
    Pending read(*disk, {.data = data.data()});
    EXPECT_EQ(server.wait(), (Answer{0, 0}));
    server.command(IoOp::kCommitAndFetchReq, {.q_id = 0, .tag = 0, .result = -EIO, .addr = 0});
    EXPECT_EQ(server.wait(), (Answer{0, -EINVAL})) << "a read's commit has an address";
    server.commit(0, -EIO);
    EXPECT_EQ(read.result(), -EIO);
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(ProtocolScenario, UserCopyTakesNoBuffers) {
  const abi::DevInfo info = add(spec_of(1, abi::kFlagUserCopy));
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    EXPECT_EQ(server.wait(), (Answer{0, -EINVAL})) << "an address";
    server.command(IoOp::kFetchReq, {.q_id = 0, .tag = 0, .result = 0, .addr = 0});
    EXPECT_EQ(server.poll(20ms), std::nullopt);
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
    EXPECT_EQ(server.wait(), (Answer{0, -ENODEV}));
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(ProtocolScenario, RegisteringABufferNeedsTheFlag) {
  if (!has(abi::kFlagSupportZeroCopy)) GTEST_SKIP() << "no zero copy";
  const abi::DevInfo info = add(spec_of(1));
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    EXPECT_EQ(start(server, info.dev_id), 0);
    const abi::IoCmd io = {.q_id = 0, .tag = 0, .result = 0, .addr = 0};
    server.command(IoOp::kRegisterIoBuf, io);
    EXPECT_EQ(server.wait(), (Answer{0, -EBUSY})) << "the kernel has it";
    const auto disk = open_disk(info.dev_id);
    std::vector<std::byte> data(512);
    Pending read(*disk, {.data = data.data()});
    EXPECT_EQ(server.wait(), (Answer{0, 0}));
    server.command(IoOp::kRegisterIoBuf, io);
    EXPECT_EQ(server.wait(), (Answer{0, -EINVAL}));
    server.command(IoOp::kUnregisterIoBuf, io);
    EXPECT_EQ(server.wait(), (Answer{0, -EINVAL}));
    server.commit(0, 512);
    EXPECT_EQ(read.result(), 0);
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(ProtocolScenario, BatchCommandsAreChecked) {
  if (!has(abi::kFlagBatchIo)) GTEST_SKIP() << "no batch I/O";
  const abi::DevInfo info = add(spec_of(2, abi::kFlagBatchIo));
  {
    RawServer server(rig().driver(), info);
    const auto element = [&](uint16_t tag, int result = 0) {
      return abi::BatchElement{
          .tag = tag, .buf_index = 0, .result = result, .buf_addr = server.address(tag % 2)};
    };
    std::vector<abi::BatchElement> elements = {element(0), element(1), element(1)};
    const auto answer = [&](IoOp op, const abi::BatchIo& io) {
      server.batch(op, io, elements);
      return server.wait().result;
    };
    abi::BatchIo io = {.q_id = 0,
                       .flags = abi::kBatchHasBufAddr,
                       .nr_elem = 3,
                       .elem_bytes = sizeof(abi::BatchElement),
                       .reserved = 0,
                       .reserved2 = 0};
    EXPECT_EQ(answer(IoOp::kPrepIoCmds, io), -E2BIG) << "more than tags";
    io.nr_elem = 2;
    io.q_id = 1;
    EXPECT_EQ(answer(IoOp::kPrepIoCmds, io), -EINVAL) << "no such queue";
    io.q_id = 0;
    io.flags = 0;
    EXPECT_EQ(answer(IoOp::kPrepIoCmds, io), -EINVAL) << "no buffers in copy mode";
    io.flags = abi::kBatchHasBufAddr;
    io.elem_bytes = 8;
    EXPECT_EQ(answer(IoOp::kPrepIoCmds, io), -EINVAL) << "elements too small";
    io.elem_bytes = sizeof(abi::BatchElement);
    elements = {element(0), element(2)};
    EXPECT_EQ(answer(IoOp::kPrepIoCmds, io), -EINVAL) << "no such tag";
    server.fetch(0);
    EXPECT_EQ(server.wait().result, -EOPNOTSUPP) << "a command without batch";
    elements = {element(0), element(1)};
    EXPECT_EQ(answer(IoOp::kPrepIoCmds, io), 0) << "the failed ones have prepared nothing";
    elements = {element(0, 512)};
    io.nr_elem = 1;
    EXPECT_LT(answer(IoOp::kCommitIoCmds, io), 0) << "the kernel has it";
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

}  // namespace
}  // namespace conformance
