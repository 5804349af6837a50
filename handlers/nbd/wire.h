// SPDX-License-Identifier: MIT
//
// The bytes of the transmission phase, as https://github.com/NetworkBlockDevice/nbd/blob/master/
// doc/proto.md has them. All numbers are big-endian.
#ifndef UBLK_HANDLERS_NBD_WIRE_H
#define UBLK_HANDLERS_NBD_WIRE_H

#include <endian.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace nbd::wire {

inline constexpr uint32_t kRequestMagic = 0x25609513;
inline constexpr uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr uint32_t kChunkMagic = 0x668e33ef;

enum Type : uint16_t { kRead, kWrite, kDisconnect, kFlush, kTrim, kWriteZeroes = 6 };

inline constexpr uint16_t kFua = 1u << 0;
inline constexpr uint16_t kNoHole = 1u << 1;

struct [[gnu::packed]] Request {
  uint32_t magic;
  uint16_t flags;
  uint16_t type;
  uint64_t cookie;
  uint64_t offset;
  uint32_t length;
};
static_assert(sizeof(Request) == 28);

struct [[gnu::packed]] SimpleReply {
  uint32_t magic;
  uint32_t error;
  uint64_t cookie;
};
static_assert(sizeof(SimpleReply) == 16);

// Of a structured reply. Its payload follows.
struct [[gnu::packed]] Chunk {
  uint32_t magic;
  uint16_t flags;
  uint16_t type;
  uint64_t cookie;
  uint32_t length;
};
static_assert(sizeof(Chunk) == 20);

inline constexpr uint16_t kLastChunk = 1u << 0;

inline constexpr uint16_t kChunkNone = 0;
inline constexpr uint16_t kChunkData = 1;  // its offset, then the data
inline constexpr uint16_t kChunkHole = 2;
inline constexpr uint16_t kChunkIsError = 1u << 15;

struct [[gnu::packed]] Hole {
  uint64_t offset;
  uint32_t length;
};
struct [[gnu::packed]] Error {  // a message, and maybe more, follows
  uint32_t error;
  uint16_t message_length;
};

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// The errno of the protocol's, which are those of Linux, as far as they are defined.
int errno_of(uint32_t error);

}  // namespace nbd::wire

#endif  // UBLK_HANDLERS_NBD_WIRE_H
