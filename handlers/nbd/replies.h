// SPDX-License-Identifier: MIT
//
// What a server sends, taken apart: simple and structured replies, from a stream of bytes that
// comes in any pieces.
#ifndef UBLK_HANDLERS_NBD_REPLIES_H
#define UBLK_HANDLERS_NBD_REPLIES_H

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "command.h"
#include "wire.h"

namespace nbd {

// Who has the commands.
class ReplyUser {
 public:
  // The one of this cookie, or nullptr.
  virtual Command* find(uint64_t cookie) = 0;
  // All of its answer is there: that errno, or 0. More replies may be taken in this call's wake,
  // but no bytes be given.
  virtual void replied(Command& command, int error) = 0;

 protected:
  ~ReplyUser() = default;
};

// Data goes to the request's buffer: by a copy out of this one's, or for much of it directly, since
// space() is there then. Nothing that a server sends makes it write elsewhere.
class Replies {
 public:
  explicit Replies(ReplyUser& user);

  // Where the next bytes are to be put; not empty. `whole`: it is better to wait for all of them.
  std::span<std::byte> space(bool& whole);
  // So many of them are there. False: it is not the protocol; then it is over.
  bool take(size_t bytes);

 private:
  enum class Part : uint8_t { kHeader, kChunkHeader, kPayloadHeader, kData, kSkip };

  size_t available() const { return end_ - begin_; }
  bool step(bool& more);
  bool header();
  bool chunk_header();
  bool payload_header();
  bool expect(size_t bytes, Part part);
  bool begin_data(uint64_t offset);
  bool hole(const std::byte* at);
  void copy_data();
  void skip();
  bool end_chunk();
  bool reply(int error);
  bool is_inside(uint64_t offset, uint32_t length) const;

  ReplyUser& user_;
  const std::unique_ptr<std::byte[]> buffer_;
  size_t begin_ = 0;  // of what has not been taken apart
  size_t end_ = 0;
  Part part_ = Part::kHeader;
  size_t wanted_;               // bytes that the part needs
  Command* command_ = nullptr;  // that is being replied to
  wire::Chunk chunk_{};         // in the host's byte order
  std::byte* to_ = nullptr;     // kData
  uint32_t left_ = 0;           // bytes of kData and kSkip
};

}  // namespace nbd

#endif  // UBLK_HANDLERS_NBD_REPLIES_H
