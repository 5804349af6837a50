// SPDX-License-Identifier: MIT
#include "replies.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace nbd {
namespace {

constexpr size_t kBufferSize = 128u << 10;
// Data of which so much is still to come goes to its place at once: a system call costs less than
// the copy.
constexpr uint32_t kDirect = 32u << 10;

}  // namespace

int wire::errno_of(uint32_t error) {
  switch (error) {
    case 0:
    case EPERM:
    case EIO:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case ENOTSUP:
    case ESHUTDOWN:
      return static_cast<int>(error);
    default:
      return EINVAL;
  }
}

Replies::Replies(ReplyUser& user)
    : user_(user),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(kBufferSize)),
      wanted_(sizeof(wire::SimpleReply)) {}

std::span<std::byte> Replies::space(bool& whole) {
  whole = part_ == Part::kData && available() == 0 && left_ >= kDirect;
  if (whole) return {to_, left_};
  if (begin_ != 0) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, available());
    end_ -= begin_;
    begin_ = 0;
  }
  return {buffer_.get() + end_, kBufferSize - end_};
}

bool Replies::take(size_t bytes) {
  if (part_ == Part::kData && available() == 0 && left_ >= kDirect) {
    to_ += bytes;
    left_ -= static_cast<uint32_t>(bytes);
    return left_ != 0 || end_chunk();
  }
  end_ += bytes;
  bool more = true;
  while (more)
    if (!step(more)) return false;
  if (available() == 0) begin_ = end_ = 0;
  return true;
}

// Takes one part apart, if all of it that is needed is there.
bool Replies::step(bool& more) {
  if (part_ == Part::kData || part_ == Part::kSkip) {
    more = available() != 0;
    part_ == Part::kData ? copy_data() : skip();
    return left_ != 0 || end_chunk();
  }
  more = available() >= wanted_;
  if (!more) return true;
  switch (part_) {
    case Part::kHeader:
      return header();
    case Part::kChunkHeader:
      return chunk_header();
    default:
      return payload_header();
  }
}

bool Replies::expect(size_t bytes, Part part) {
  wanted_ = bytes;
  part_ = part;
  return true;
}

// ------------------------------------------------------------------ headers --

bool Replies::header() {
  const auto simple = wire::load<wire::SimpleReply>(buffer_.get() + begin_);
  const uint32_t magic = be32toh(simple.magic);
  if (magic == wire::kChunkMagic) return expect(sizeof(wire::Chunk), Part::kChunkHeader);
  if (magic != wire::kSimpleReplyMagic) return false;
  begin_ += sizeof(simple);
  command_ = user_.find(be64toh(simple.cookie));
  if (command_ == nullptr) return false;
  if (command_->error == 0) command_->error = wire::errno_of(be32toh(simple.error));
  chunk_ = {.magic = 0, .flags = wire::kLastChunk, .type = 0, .cookie = 0, .length = 0};
  const ublk_request& request = command_->request;
  if (request.op != UBLK_OP_READ || command_->error != 0) return end_chunk();
  chunk_.length = request.length + sizeof(uint64_t);
  return begin_data(request.offset);
}

bool Replies::chunk_header() {
  const auto chunk = wire::load<wire::Chunk>(buffer_.get() + begin_);
  begin_ += sizeof(chunk);
  chunk_ = {.magic = be32toh(chunk.magic),
            .flags = be16toh(chunk.flags),
            .type = be16toh(chunk.type),
            .cookie = be64toh(chunk.cookie),
            .length = be32toh(chunk.length)};
  command_ = user_.find(chunk_.cookie);
  if (command_ == nullptr) return false;
  const bool is_read = command_->request.op == UBLK_OP_READ;
  if ((chunk_.type & wire::kChunkIsError) != 0)
    return chunk_.length >= sizeof(wire::Error) &&
           expect(sizeof(wire::Error), Part::kPayloadHeader);
  switch (chunk_.type) {
    case wire::kChunkNone:
      return chunk_.length == 0 && (chunk_.flags & wire::kLastChunk) != 0 && end_chunk();
    case wire::kChunkData:
      return is_read && chunk_.length > sizeof(uint64_t) &&
             expect(sizeof(uint64_t), Part::kPayloadHeader);
    case wire::kChunkHole:
      return is_read && chunk_.length == sizeof(wire::Hole) &&
             expect(sizeof(wire::Hole), Part::kPayloadHeader);
    default:
      return false;
  }
}

bool Replies::payload_header() {
  const std::byte* at = buffer_.get() + begin_;
  begin_ += wanted_;
  if (chunk_.type == wire::kChunkData) return begin_data(be64toh(wire::load<uint64_t>(at)));
  if (chunk_.type == wire::kChunkHole) return hole(at);
  const auto error = wire::load<wire::Error>(at);
  const int code = wire::errno_of(be32toh(error.error));
  if (command_->error == 0) command_->error = code != 0 ? code : EIO;
  left_ = chunk_.length - static_cast<uint32_t>(sizeof(error));
  part_ = Part::kSkip;
  return left_ != 0 || end_chunk();
}

// --------------------------------------------------------------------- data --

bool Replies::is_inside(uint64_t offset, uint32_t length) const {
  const ublk_request& request = command_->request;
  return offset >= request.offset && offset - request.offset <= request.length &&
         length <= request.length - (offset - request.offset);
}

bool Replies::begin_data(uint64_t offset) {
  left_ = chunk_.length - static_cast<uint32_t>(sizeof(uint64_t));
  if (!is_inside(offset, left_)) return false;
  to_ = static_cast<std::byte*>(command_->request.buffer) + (offset - command_->request.offset);
  command_->received += left_;
  part_ = Part::kData;
  return true;
}

bool Replies::hole(const std::byte* at) {
  const auto hole = wire::load<wire::Hole>(at);
  const uint64_t offset = be64toh(hole.offset);
  const uint32_t length = be32toh(hole.length);
  if (!is_inside(offset, length)) return false;
  const uint64_t from = offset - command_->request.offset;
  std::memset(static_cast<std::byte*>(command_->request.buffer) + from, 0, length);
  command_->received += length;
  return end_chunk();
}

void Replies::copy_data() {
  const size_t length = std::min<size_t>(left_, available());
  std::memcpy(to_, buffer_.get() + begin_, length);
  to_ += length;
  begin_ += length;
  left_ -= static_cast<uint32_t>(length);
}

void Replies::skip() {
  const size_t length = std::min<size_t>(left_, available());
  begin_ += length;
  left_ -= static_cast<uint32_t>(length);
}

// Data that the server has left out is no data.
bool Replies::end_chunk() {
  expect(sizeof(wire::SimpleReply), Part::kHeader);
  if ((chunk_.flags & wire::kLastChunk) == 0) return true;
  Command& command = *command_;
  const ublk_request& request = command.request;
  if (request.op == UBLK_OP_READ && command.error == 0 && command.received != request.length)
    return false;
  user_.replied(command, command.error);
  return true;
}

}  // namespace nbd
