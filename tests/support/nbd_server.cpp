// SPDX-License-Identifier: MIT
#include "nbd_server.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace test {
namespace {

namespace wire = nbd::wire;

constexpr uint64_t kOptionMagic = 0x49484156454F5054;  // "IHAVEOPT"
constexpr uint64_t kOptionReplyMagic = 0x3e889045565a9;
constexpr uint16_t kFixedNewstyleNoZeroes = 3;
constexpr uint32_t kGo = 7;
constexpr uint32_t kStructuredReply = 8;
constexpr uint32_t kAck = 1;
constexpr uint32_t kInfo = 3;
constexpr uint32_t kUnsupported = 0x80000001;
constexpr uint16_t kExportFlags = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6;  // flush to write zeroes
constexpr uint16_t kMultiConn = 1 << 8;

struct [[gnu::packed]] Greeting {
  char magic[8];
  uint64_t option_magic;
  uint16_t flags;
};
struct [[gnu::packed]] Option {
  uint64_t magic;
  uint32_t option;
  uint32_t length;
};
struct [[gnu::packed]] OptionReply {
  uint64_t magic;
  uint32_t option;
  uint32_t type;
  uint32_t length;
};
struct [[gnu::packed]] ExportInfo {
  uint16_t type;
  uint64_t size;
  uint16_t flags;
};

int listening(const std::string& path) {
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  if (path.size() >= sizeof(address.sun_path)) throw std::invalid_argument("too long: " + path);
  std::memcpy(address.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(fd, 16) != 0)
    throw std::system_error(errno, std::generic_category(), path);
  return fd;
}

bool receive_all(int socket, void* data, size_t bytes) {
  return recv(socket, data, bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes);
}
bool skip(int socket, size_t bytes) {
  std::string data(bytes, '\0');
  return bytes == 0 || receive_all(socket, data.data(), bytes);
}
template <class T>
void send_all(int socket, const T& value) {
  static_cast<void>(send(socket, &value, sizeof(value), MSG_NOSIGNAL));
}

void reply(int socket, uint32_t option, uint32_t type, size_t length) {
  send_all(socket, OptionReply{htobe64(kOptionReplyMagic), option, htobe32(type),
                               htobe32(static_cast<uint32_t>(length))});
}

bool shake_hands(int socket, const ExportInfo& info, bool structured_replies) {
  send_all(socket, Greeting{{'N', 'B', 'D', 'M', 'A', 'G', 'I', 'C'},
                            htobe64(kOptionMagic),
                            htobe16(kFixedNewstyleNoZeroes)});
  uint32_t client_flags = 0;
  if (!receive_all(socket, &client_flags, sizeof(client_flags))) return false;
  Option option{};
  while (receive_all(socket, &option, sizeof(option)) && skip(socket, be32toh(option.length))) {
    const uint32_t number = be32toh(option.option);
    if (number == kGo) {
      reply(socket, option.option, kInfo, sizeof(info));
      send_all(socket, info);
      reply(socket, option.option, kAck, 0);
      return true;
    }
    const bool is_known = number == kStructuredReply && structured_replies;
    reply(socket, option.option, is_known ? kAck : kUnsupported, 0);
  }
  return false;
}

}  // namespace

NbdServer::NbdServer(const std::string& path, Serve serve, const Settings& settings)
    : serve_(std::move(serve)),
      settings_(settings),
      listener_(listening(path)),
      acceptor_([this] { accept_all(); }) {}

NbdServer::~NbdServer() {
  shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  {
    const std::lock_guard lock(mutex_);
    for (const int socket : sockets_) shutdown(socket, SHUT_RDWR);
  }
  for (std::thread& thread : threads_) thread.join();
}

void NbdServer::accept_all() {
  for (unsigned connection = 0; connection < settings_.clients; ++connection) {
    const int socket = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0) return;
    const std::lock_guard lock(mutex_);
    sockets_.push_back(socket);
    threads_.emplace_back([this, socket, connection] { run(socket, connection); });
  }
}

void NbdServer::run(int socket, unsigned connection) {
  const uint16_t flags = kExportFlags | (connection < settings_.several ? kMultiConn : 0);
  const uint64_t size = connection < settings_.grows ? kSize : 2 * kSize;
  if (shake_hands(socket, {0, htobe64(size), htobe16(flags)}, settings_.structured_replies))
    serve_(socket, connection);
  const std::lock_guard lock(mutex_);
  std::erase(sockets_, socket);
  close(socket);
}

std::optional<NbdServer::Request> NbdServer::receive(int socket) {
  Request request{};
  if (!receive_all(socket, &request, sizeof(request))) return std::nullopt;
  const uint16_t type = be16toh(request.type);
  if (type == wire::kDisconnect) return std::nullopt;
  if (type == wire::kWrite && !skip(socket, be32toh(request.length))) return std::nullopt;
  return request;
}

void NbdServer::answer(int socket, const Request& request, uint32_t error) {
  send_all(socket,
           wire::SimpleReply{htobe32(wire::kSimpleReplyMagic), htobe32(error), request.cookie});
  if (be16toh(request.type) != wire::kRead || error != 0) return;
  const std::string zeroes(be32toh(request.length), '\0');
  static_cast<void>(send(socket, zeroes.data(), zeroes.size(), MSG_NOSIGNAL));
}

}  // namespace test
