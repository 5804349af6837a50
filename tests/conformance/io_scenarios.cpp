// SPDX-License-Identifier: MIT
// What a user's requests are to the server, what its results are to the user, and data in every
// mode, served by the library.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <ostream>
#include <random>
#include <thread>
#include <vector>

#include "fake/backends.h"
#include "fake/ring_thread.h"
#include "scenario.h"

namespace conformance {
namespace {

using IoScenario = Scenario;

// A user of a file asks for FUA by O_DSYNC, for which the kernel flushes besides.
void answer_flushes(RawServer& server, Pending& pending) {
  while (!pending.ended()) {
    if (!server.poll(2ms)) continue;
    EXPECT_EQ(server.descriptor(0).op_flags & abi::kOpMask,
              static_cast<uint32_t>(Operation::kFlush));
    server.commit(0, 0);
  }
}

TEST_F(IoScenario, RequestsArriveAsTheyWereMade) {
  constexpr uint32_t kAttrs = abi::kAttrVolatileCache | abi::kAttrFua;
  const abi::DevInfo info = add(spec_of(1, 0, kAttrs));
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    EXPECT_EQ(start(server, info.dev_id), 0);
    const auto disk = open_disk(info.dev_id);
    std::vector<std::byte> data(64 << 10, std::byte{'w'});
    const std::vector<Io> requests = {
        {.op = Operation::kRead, .sector = 3, .sectors = 5, .data = data.data()},
        {.op = Operation::kRead, .sector = 0, .sectors = 128, .data = data.data()},
        {.op = Operation::kWrite, .sector = 2047, .sectors = 1, .data = data.data()},
        {.op = Operation::kWrite, .sector = 8, .sectors = 8, .data = data.data(), .fua = true},
        {.op = Operation::kDiscard, .sector = 16, .sectors = 8},
        {.op = Operation::kDiscard, .sector = 0, .sectors = 2048},
        {.op = Operation::kWriteZeroes, .sector = 8, .sectors = 16},
        {.op = Operation::kFlush},
    };
    for (const Io& io : requests) {
      std::fill(data.begin(), data.end(), std::byte{'w'});
      Pending pending(*disk, io);
      ASSERT_EQ(server.wait(), (Answer{0, 0}));
      const abi::IoDesc& request = server.descriptor(0);
      EXPECT_EQ(request.op_flags & abi::kOpMask, static_cast<uint32_t>(io.op));
      EXPECT_EQ((request.op_flags & abi::kIoFlagFua) != 0, io.fua);
      const bool flush = io.op == Operation::kFlush;
      EXPECT_EQ(request.start_sector, flush ? UINT64_MAX : io.sector);
      EXPECT_EQ(request.nr_sectors, flush ? 0 : io.sectors);
      if (io.op == Operation::kWrite) {
        EXPECT_EQ(server.buffer(0)[io.sectors * 512 - 1], std::byte{'w'});
      }
      const bool moves = io.op == Operation::kRead || io.op == Operation::kWrite;
      server.commit(0, moves ? static_cast<int>(io.sectors * 512) : 0);
      if (io.fua) answer_flushes(server, pending);
      EXPECT_EQ(pending.result(), 0);
    }
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

// An errno becomes a status of the block layer, and that one an errno again.
TEST_F(IoScenario, ErrorsReachTheUserAsTheBlockLayerSaysThem) {
  const abi::DevInfo info = add(spec_of(1));
  const std::vector<std::pair<int, int>> errors = {
      {EIO, EIO},
      {EPERM, EIO},
      {ENOENT, EIO},
      {EBADF, EIO},
      {EACCES, EIO},
      {EFAULT, EIO},
      {EROFS, EIO},
      {EPIPE, EIO},
      {ECONNRESET, EIO},
      {ESTALE, EIO},
      {EDQUOT, EIO},
      {EFBIG, EIO},
      {ENOSPC, ENOSPC},
      {ETIMEDOUT, ETIMEDOUT},
      {ENOLINK, ENOLINK},
      {EREMOTEIO, EREMOTEIO},
      {EBADE, EBADE},
      {ENODATA, ENODATA},
      {EILSEQ, EILSEQ},
      {ENOMEM, ENOMEM},
      {EOPNOTSUPP, EOPNOTSUPP},
      {ENODEV, ENODEV},
      {EINVAL, EINVAL},
      {ETIME, ETIME},
      {EBUSY, EBUSY},
      {EOVERFLOW, EOVERFLOW},
      {ETOOMANYREFS, ETOOMANYREFS},
  };
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    EXPECT_EQ(start(server, info.dev_id), 0);
    const auto disk = open_disk(info.dev_id);
    std::vector<std::byte> data(512);
    for (const Operation op : {Operation::kRead, Operation::kWrite}) {
      for (const auto& [error, expected] : errors) {
        Pending pending(*disk, {.op = op, .data = data.data()});
        ASSERT_EQ(server.wait(), (Answer{0, 0}));
        server.commit(0, -error);
        EXPECT_EQ(pending.result(), -expected) << "from " << ublk::errno_name(error);
      }
    }
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(IoScenario, WhatTheDeviceCantDoNeverReachesTheServer) {
  ublk::DeviceSpec spec = spec_of(1);
  spec.params.types = abi::kParamBasic;
  const abi::DevInfo info = add(spec);
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    EXPECT_EQ(start(server, info.dev_id), 0);
    const auto disk = open_disk(info.dev_id);
    EXPECT_EQ(disk->run({.op = Operation::kDiscard, .sectors = 8}), -EOPNOTSUPP);
    EXPECT_EQ(disk->run({.op = Operation::kFlush}), 0) << "there is no cache";
    std::vector<std::byte> data(512);
    EXPECT_EQ(disk->run({.sector = kBytes / 512, .data = data.data()}), -EIO);
    EXPECT_EQ(server.poll(20ms), std::nullopt);
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

TEST_F(IoScenario, AReadOnlyDeviceRefusesWrites) {
  const abi::DevInfo info = add(spec_of(1, 0, abi::kAttrReadOnly));
  {
    RawServer server(rig().driver(), info);
    server.fetch(0);
    EXPECT_EQ(start(server, info.dev_id), 0);
    const auto disk = open_disk(info.dev_id);
    ASSERT_NE(disk, nullptr);
    std::vector<std::byte> data(512);
    EXPECT_LT(disk->run({.op = Operation::kWrite, .data = data.data()}), 0);
    Pending read(*disk, {.data = data.data()});
    server.commit(server.wait().tag, 512);
    EXPECT_EQ(read.result(), 0);
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

// As many requests as tags, and one that waits for the first free one.
TEST_F(IoScenario, TheDepthIsTheNumberOfTags) {
  constexpr uint16_t kDepth = 4;
  const abi::DevInfo info = add(spec_of(kDepth));
  {
    RawServer server(rig().driver(), info);
    server.fetch_all();
    EXPECT_EQ(start(server, info.dev_id), 0);
    const auto disk = open_disk(info.dev_id);
    std::vector<std::byte> data((kDepth + 1) * 512);
    std::vector<std::unique_ptr<Pending>> reads;
    for (uint32_t i = 0; i <= kDepth; ++i)
      reads.push_back(
          std::make_unique<Pending>(*disk, Io{.sector = 2 * i, .data = data.data() + i * 512}));
    std::vector<uint16_t> tags;
    for (uint16_t i = 0; i < kDepth; ++i) tags.push_back(server.wait().tag);
    EXPECT_EQ(server.poll(20ms), std::nullopt);
    const auto serve = [&](uint16_t tag) {
      const uint64_t sector = server.descriptor(tag).start_sector;
      std::memset(server.buffer(tag), static_cast<int>('a' + sector / 2), 512);
      server.commit(tag, 512);
    };
    serve(tags.back());
    EXPECT_EQ(server.wait(), (Answer{tags.back(), 0}));
    for (const uint16_t tag : tags) serve(tag);
    for (uint32_t i = 0; i <= kDepth; ++i) {
      EXPECT_EQ(reads[i]->result(), 0);
      EXPECT_EQ(static_cast<char>(data[i * 512]), static_cast<char>('a' + i));
    }
    EXPECT_EQ(run(Command::stop(info.dev_id)), 0);
  }
  EXPECT_EQ(run(Command::del(info.dev_id)), 0);
}

// -------------------------------------------------------- data, by the library --

struct Mode {
  const char* name;
  uint64_t flags;
  unsigned workers = 0;
};
std::ostream& operator<<(std::ostream& out, const Mode& mode) { return out << mode.name; }

class DataScenario : public Scenario, public ::testing::WithParamInterface<Mode> {};

// A user with a part of the disk of its own, and a model of it.
void use_disk(Disk& disk, uint64_t first, uint64_t sectors, unsigned seed, unsigned requests) {
  std::mt19937 random(seed);
  std::vector<std::byte> model(sectors * 512);
  std::vector<std::byte> data(sectors * 512);
  for (unsigned i = 0; i < requests && !::testing::Test::HasFailure(); ++i) {
    const uint32_t count = 1 + random() % std::min<uint64_t>(sectors, 128);
    const uint64_t begin = random() % (sectors - count + 1);
    std::byte* const part = model.data() + begin * 512;
    const size_t bytes = size_t{count} * 512;
    Io io = {.sector = first + begin, .sectors = count, .data = data.data()};
    const unsigned dice = random() % 10;
    if (dice < 5) {
      ASSERT_EQ(disk.run(io), 0) << "read " << i << " of seed " << seed;
      ASSERT_EQ(std::memcmp(part, data.data(), bytes), 0) << "read " << i << " of seed " << seed;
      continue;
    }
    io.op = dice < 9 ? Operation::kWrite : Operation::kWriteZeroes;
    if (io.op == Operation::kWrite)
      std::generate_n(part, bytes, [&] { return static_cast<std::byte>(random()); });
    else
      std::memset(part, 0, bytes);
    std::memcpy(data.data(), part, bytes);
    ASSERT_EQ(disk.run(io), 0) << "change " << i << " of seed " << seed;
  }
}

TEST_P(DataScenario, ReadsBackWhatWasWritten) {
  const Mode& mode = GetParam();
  if (!has(mode.flags)) GTEST_SKIP() << "not with this kernel";
  constexpr unsigned kUsers = 8;
  constexpr uint64_t kShare = kBytes / 512 / kUsers;
  fake::MemoryBackend memory(kBytes);
  std::unique_ptr<fake::WorkersBackend> workers;
  ublk::Backend* backend = &memory;
  if (mode.workers != 0) {
    workers = std::make_unique<fake::WorkersBackend>(memory, mode.workers);
    backend = workers.get();
  }
  fake::RingThread thread;
  fake::ServedDevice device(control(), spec_of(16, mode.flags), *backend, {&thread});
  const auto disk = open_disk(device.id());
  {
    std::vector<std::jthread> users;
    for (unsigned user = 0; user < kUsers; ++user)
      users.emplace_back([&, user] { use_disk(*disk, user * kShare, kShare, user + 1, 60); });
  }
}

INSTANTIATE_TEST_SUITE_P(
    , DataScenario,
    ::testing::Values(Mode{"Copy", 0}, Mode{"CopyWorkers", 0, 2},
                      Mode{"GetData", abi::kFlagNeedGetData},
                      Mode{"GetDataWorkers", abi::kFlagNeedGetData, 2},
                      Mode{"UserCopy", abi::kFlagUserCopy},
                      Mode{"UserCopyWorkers", abi::kFlagUserCopy, 2},
                      Mode{"Batch", abi::kFlagBatchIo}, Mode{"BatchWorkers", abi::kFlagBatchIo, 2},
                      Mode{"BatchUserCopyWorkers", abi::kFlagBatchIo | abi::kFlagUserCopy, 2}),
    [](const auto& param_info) { return param_info.param.name; });

}  // namespace
}  // namespace conformance
