// SPDX-License-Identifier: MIT
// What the nbd handler is told from outside: an NBD server's replies, in pieces, and URIs. The
// first byte chooses. Whatever a server sends, a command is answered once at most, and only the
// buffers of those that are not are written to.
#include <replies.h>
#include <uri.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "input.h"

namespace {

// Buffers are of the heap, so that a byte beside them is found.
struct Waiting {
  Waiting(uint8_t op, uint64_t offset, uint32_t length) : buffer(length) {
    request.op = op;
    request.offset = offset;
    request.length = length;
    request.buffer = buffer.data();
  }

  std::vector<std::byte> buffer;
  ublk_request request{};
  nbd::Command command{request};
  bool answered = false;
};

// The cookie is the index.
class Commands final : public nbd::ReplyUser {
 public:
  nbd::Command* find(uint64_t cookie) override {
    if (cookie >= waiting_.size() || waiting_[cookie]->answered) return nullptr;
    return &waiting_[cookie]->command;
  }
  void replied(nbd::Command& command, int error) override {
    fuzz::require(error >= 0, "an errno is positive");
    for (const auto& waiting : waiting_) {
      if (&waiting->command != &command) continue;
      fuzz::require(!waiting->answered, "a command is answered once");
      waiting->answered = true;
      std::vector<std::byte>().swap(waiting->buffer);
    }
  }

 private:
  const std::array<std::unique_ptr<Waiting>, 5> waiting_{
      std::make_unique<Waiting>(UBLK_OP_READ, 0, 512),
      std::make_unique<Waiting>(UBLK_OP_READ, 4096, 64),
      std::make_unique<Waiting>(UBLK_OP_READ, 1 << 20, 256 << 10),
      std::make_unique<Waiting>(UBLK_OP_WRITE, 4096, 512),
      std::make_unique<Waiting>(UBLK_OP_FLUSH, 0, 0),
  };
};

void take_replies(fuzz::Input& input) {
  Commands commands;
  nbd::Replies replies(commands);
  // So many bytes of zeroes follow each piece, for data that is too long for an input.
  const size_t zeroes = input.take<uint8_t>() << 10;
  while (input.left() != 0) {
    std::string bytes = input.text(1 + input.take<uint8_t>());
    bytes.resize(bytes.size() + zeroes);
    for (size_t at = 0; at < bytes.size();) {
      bool whole;
      const auto space = replies.space(whole);
      fuzz::require(!space.empty(), "there is space");
      const size_t length = std::min(space.size(), bytes.size() - at);
      std::memcpy(space.data(), bytes.data() + at, length);
      at += length;
      if (!replies.take(length)) return;
    }
  }
}

void take_uri(const std::string& text) {
  try {
    const nbd::Uri uri = nbd::parse_uri(text);
    using Transport = nbd::Uri::Transport;
    fuzz::require((uri.transport == Transport::kUnix) == uri.socket.starts_with('/'),
                  "a unix socket has an absolute path, others have none");
    fuzz::require(uri.transport != Transport::kTcp || !uri.host.empty(), "TCP has a host");
    fuzz::require(uri.tls || (uri.certificates.empty() && uri.psk_file.empty()),
                  "without TLS there are no secrets");
  } catch (const std::invalid_argument& e) {
    fuzz::require(*e.what() != '\0', "what is wrong is said");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  if (input.take<uint8_t>() % 2 == 0)
    take_replies(input);
  else
    take_uri(input.rest());
  return 0;
}
