#include "tools/kv_bench_channel.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace sluice::kv_bench {
namespace {

struct Header {
  uint32_t kind;
  uint32_t engine;
  uint64_t size_bytes;
};

bool SendAll(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes += sent;
    size -= static_cast<size_t>(sent);
  }
  return true;
}

bool ReceiveAll(int fd, char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t got = recv(fd, bytes, size, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

}  // namespace

Channel::~Channel() { close(fd_); }

void Channel::Send(FrameKind kind, uint32_t engine, const std::string& body) {
  const Header header{static_cast<uint32_t>(kind), engine, body.size()};
  std::string bytes(sizeof header, '\0');
  std::memcpy(bytes.data(), &header, sizeof header);
  bytes += body;
  MutexLock lock(send_mu_);
  // A lost peer shows in Receive().
  (void)SendAll(fd_, bytes.data(), bytes.size());
}

std::optional<Frame> Channel::Receive() {
  Header header;
  if (!ReceiveAll(fd_, reinterpret_cast<char*>(&header), sizeof header)) {
    return std::nullopt;
  }
  Frame frame{static_cast<FrameKind>(header.kind), header.engine, {}};
  frame.body.resize(header.size_bytes);
  if (!ReceiveAll(fd_, frame.body.data(), frame.body.size())) {
    return std::nullopt;
  }
  return frame;
}

}  // namespace sluice::kv_bench
