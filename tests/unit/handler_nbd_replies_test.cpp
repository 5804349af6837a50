// SPDX-License-Identifier: MIT
//
// What an NBD server sends is understood in whatever pieces it comes, and nothing that it sends can
// make the handler write outside of a request's buffer.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "replies.h"

namespace {

using nbd::Command;
using nbd::Replies;
namespace wire = nbd::wire;

class NbdReplies : public testing::TestWithParam<size_t>, protected nbd::ReplyUser {
 protected:
  struct Read {
    Read(uint64_t offset, uint32_t length) : data(length, '-') {
      request.op = UBLK_OP_READ;
      request.offset = offset;
      request.length = length;
      request.buffer = data.data();
    }
    std::string data;
    ublk_request request{};
    Command command{request};
  };

  Command* find(uint64_t cookie) override {
    const auto command = commands_.find(cookie);
    return command == commands_.end() ? nullptr : command->second;
  }
  void replied(Command& command, int error) override {
    std::erase_if(commands_, [&](const auto& entry) { return entry.second == &command; });
    results_[&command] = error;
  }

  void simple(uint64_t cookie, uint32_t error, const std::string& data = "") {
    append(wire::SimpleReply{htobe32(wire::kSimpleReplyMagic), htobe32(error), htobe64(cookie)});
    bytes_ += data;
  }
  void chunk(uint64_t cookie, uint16_t type, const std::string& payload, bool last) {
    append(wire::Chunk{htobe32(wire::kChunkMagic), htobe16(last ? wire::kLastChunk : 0),
                       htobe16(type), htobe64(cookie),
                       htobe32(static_cast<uint32_t>(payload.size()))});
    bytes_ += payload;
  }
  static std::string data_at(uint64_t offset, const std::string& data) {
    return encoded(htobe64(offset)) + data;
  }
  static std::string hole_at(uint64_t offset, uint32_t length) {
    return encoded(wire::Hole{htobe64(offset), htobe32(length)});
  }
  static std::string error_of(uint32_t error, const std::string& text) {
    return encoded(wire::Error{htobe32(error), htobe16(static_cast<uint16_t>(text.size()))}) + text;
  }

  // In pieces of the parameter's size; false: the protocol is broken.
  bool take_all(size_t piece) {
    Replies replies(*this);
    for (size_t at = 0; at < bytes_.size();) {
      bool whole;
      const std::span<std::byte> space = replies.space(whole);
      EXPECT_FALSE(space.empty());
      const size_t length = std::min({piece, space.size(), bytes_.size() - at});
      std::memcpy(space.data(), bytes_.data() + at, length);
      at += length;
      if (!replies.take(length)) return false;
    }
    return true;
  }
  bool take_all() { return take_all(GetParam()); }

  template <class T>
  static std::string encoded(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(value)};
  }
  template <class T>
  void append(const T& value) {
    bytes_ += encoded(value);
  }

  std::string bytes_;
  std::map<uint64_t, Command*> commands_;
  std::map<Command*, int> results_;
};

INSTANTIATE_TEST_SUITE_P(Pieces, NbdReplies, testing::Values(1, 3, 16, 20, 1000, 1u << 20));

TEST_P(NbdReplies, SimpleOnesBringDataOrAnError) {
  Read one(4096, 512);
  Read two(0, 100'000);
  Read three(0, 512);
  commands_ = {{1, &one.command}, {2, &two.command}, {3, &three.command}};
  const std::string large(100'000, 'x');
  simple(2, 0, large);
  simple(3, ENOSPC);
  simple(1, 0, std::string(512, 'y'));
  ASSERT_TRUE(take_all());
  EXPECT_EQ(results_, (std::map<Command*, int>{
                          {&one.command, 0}, {&two.command, 0}, {&three.command, ENOSPC}}));
  EXPECT_EQ(one.data, std::string(512, 'y'));
  EXPECT_EQ(two.data, large);
  EXPECT_EQ(three.data, std::string(512, '-'));
}

TEST_P(NbdReplies, ChunksComeInAnyOrderAndAmongOthers) {
  Read one(4096, 3000);
  Read two(0, 512);
  commands_ = {{1, &one.command}, {2, &two.command}};
  chunk(1, wire::kChunkData, data_at(6096, std::string(1000, 'c')), false);
  chunk(2, wire::kChunkHole, hole_at(0, 512), true);
  chunk(1, wire::kChunkHole, hole_at(5096, 1000), false);
  chunk(1, wire::kChunkData, data_at(4096, std::string(1000, 'a')), false);
  chunk(1, wire::kChunkNone, "", true);
  ASSERT_TRUE(take_all());
  EXPECT_EQ(results_, (std::map<Command*, int>{{&one.command, 0}, {&two.command, 0}}));
  EXPECT_EQ(one.data, std::string(1000, 'a') + std::string(1000, '\0') + std::string(1000, 'c'));
  EXPECT_EQ(two.data, std::string(512, '\0'));
}

TEST_P(NbdReplies, AChunkWithAnErrorFailsTheCommand) {
  Read read(0, 512);
  commands_ = {{7, &read.command}};
  chunk(7, wire::kChunkData, data_at(0, std::string(100, 'a')), false);
  chunk(7, wire::kChunkIsError | 1, error_of(EIO, "the disk is bad"), false);
  chunk(7, wire::kChunkNone, "", true);
  ASSERT_TRUE(take_all());
  EXPECT_EQ(results_, (std::map<Command*, int>{{&read.command, EIO}}));
}

TEST_P(NbdReplies, WhatIsNotTheProtocolIsRefused) {
  const auto refused = [this](auto build) {
    bytes_.clear();
    results_.clear();
    Read read(4096, 512);
    commands_ = {{1, &read.command}};
    build();
    return !take_all() && results_.empty() && read.data == std::string(512, '-');
  };
  EXPECT_TRUE(refused([&] { bytes_ = "HTTP/1.1 400 Bad Request"; }));
  EXPECT_TRUE(refused([&] { simple(9, 0); }));
  EXPECT_TRUE(refused([&] { chunk(9, wire::kChunkNone, "", true); }));
  EXPECT_TRUE(refused([&] { chunk(1, wire::kChunkNone, "", false); }));
  EXPECT_TRUE(refused([&] { chunk(1, wire::kChunkData, data_at(4095, "xx"), true); }));
  EXPECT_TRUE(refused([&] { chunk(1, wire::kChunkData, data_at(4607, "xx"), true); }));
  EXPECT_TRUE(refused([&] { chunk(1, wire::kChunkData, data_at(UINT64_MAX, "xx"), true); }));
  EXPECT_TRUE(refused([&] { chunk(1, wire::kChunkData, "short", true); }));
  EXPECT_TRUE(refused([&] { chunk(1, wire::kChunkHole, hole_at(4096, 513), true); }));
  EXPECT_TRUE(refused([&] { chunk(1, 99, "x", true); }));
}

TEST_P(NbdReplies, DataThatIsLeftOutIsNoSuccess) {
  Read read(0, 512);
  commands_ = {{1, &read.command}};
  chunk(1, wire::kChunkData, data_at(0, std::string(511, 'a')), true);
  EXPECT_FALSE(take_all());
  EXPECT_TRUE(results_.empty());
}

// Under a sanitizer this finds whatever is touched outside of the buffers.
TEST(NbdRepliesFuzz, DamagedStreamsDoNoHarm) {
  struct Fixture : NbdReplies {
    void TestBody() override {}
    void run(std::mt19937& random) {
      std::vector<std::unique_ptr<Read>> reads;
      for (uint64_t cookie = 0; cookie < 8; ++cookie) {
        reads.push_back(std::make_unique<Read>(cookie * 4096, 4096));
        commands_[cookie] = &reads.back()->command;
      }
      for (uint64_t cookie = 0; cookie < 8; ++cookie) {
        if (random() % 2 == 0)
          simple(cookie, 0, std::string(4096, 'x'));
        else
          chunk(cookie, wire::kChunkData, data_at(cookie * 4096, std::string(4096, 'y')), true);
      }
      for (unsigned i = random() % 4; i < 4; ++i)
        bytes_[random() % 2 ? random() % bytes_.size() : random() % 64] =
            static_cast<char>(random());
      static_cast<void>(take_all(1 + random() % 6000));
    }
  };
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) Fixture().run(random);
}

}  // namespace
