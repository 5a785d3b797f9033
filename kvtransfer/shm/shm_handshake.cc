#include "kvtransfer/shm/shm_handshake.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/aligned_mapping.h"
#include "base/random.h"

namespace sluice::kvtransfer {
namespace {

constexpr int kBacklog = 64;
constexpr size_t kMaxPacketBytes = 256;
constexpr int kMaxDescriptors = 4;
constexpr int kSeals = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;

absl::Status Errno(absl::string_view call) {
  return absl::UnavailableError(
      absl::StrCat("shm ", call, ": ", std::strerror(errno)));
}

// The address of an abstract name; its length, 0 when it does not fit.
socklen_t AbstractAddress(const std::string& name, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  if (name.empty() || name.size() >= sizeof address.sun_path) return 0;
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                name.size());
}

}  // namespace

absl::StatusOr<ShmListener> ListenAbstract() {
  ShmListener listener;
  listener.name =
      absl::StrCat("sluice-kv-", absl::BytesToHexString(RandomBytes(16)));
  sockaddr_un address;
  const socklen_t length = AbstractAddress(listener.name, address);
  listener.fd =
      socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener.fd < 0) return Errno("socket");
  if (bind(listener.fd, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      listen(listener.fd, kBacklog) != 0) {
    const absl::Status status = Errno("listen");
    close(listener.fd);
    return status;
  }
  return listener;
}

absl::StatusOr<int> ConnectAbstract(const std::string& name) {
  sockaddr_un address;
  const socklen_t length = AbstractAddress(name, address);
  if (length == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shm socket name of ", name.size(), " bytes"));
  }
  const int fd =
      socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Errno("socket");
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), length) != 0) {
    const absl::Status status = Errno("connect");
    close(fd);
    return status;
  }
  return fd;
}

absl::Status CheckSameUser(int fd) {
  ucred credentials = {};
  socklen_t length = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return Errno("SO_PEERCRED");
  }
  if (credentials.uid == geteuid()) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(
      "shm peer runs as uid ", credentials.uid, ", we as ", geteuid()));
}

absl::Status SendPacket(int fd, absl::string_view bytes, int pass_fd) {
  iovec part = {const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (pass_fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &pass_fd, sizeof(int));
  }
  const ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent == static_cast<ssize_t>(bytes.size()) ? absl::OkStatus()
                                                    : Errno("send");
}

absl::StatusOr<std::optional<ShmPacket>> ReceivePacket(int fd) {
  char bytes[kMaxPacketBytes];
  iovec part = {bytes, sizeof bytes};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return std::nullopt;
    return Errno("receive");
  }
  ShmPacket packet;
  int count = 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n; ++i) {
      int passed;
      std::memcpy(&passed, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      if (count++ == 0) {
        packet.passed_fd = passed;
      } else {
        close(passed);
      }
    }
  }
  const bool cut = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  if (count > 1 || cut) {
    if (packet.passed_fd >= 0) close(packet.passed_fd);
    return absl::InvalidArgumentError(
        absl::StrCat("shm packet with ", count, " descriptors, or cut"));
  }
  if (got == 0) {
    if (packet.passed_fd >= 0) close(packet.passed_fd);
    return absl::UnavailableError("shm peer hung up");
  }
  packet.bytes.assign(bytes, static_cast<size_t>(got));
  return packet;
}

std::string Encode(const PoolAnnouncement& pool) {
  std::string bytes(3 * sizeof(uint64_t), '\0');
  std::memcpy(&bytes[0], &pool.size_bytes, sizeof(uint64_t));
  std::memcpy(&bytes[8], &pool.probe_offset, sizeof(uint64_t));
  std::memcpy(&bytes[16], &pool.probe_value, sizeof(uint64_t));
  return bytes;
}

absl::StatusOr<PoolAnnouncement> DecodePool(absl::string_view bytes) {
  if (bytes.size() != 3 * sizeof(uint64_t)) {
    return absl::InvalidArgumentError(
        absl::StrCat("shm pool message of ", bytes.size(), " bytes"));
  }
  PoolAnnouncement pool;
  std::memcpy(&pool.size_bytes, &bytes[0], sizeof(uint64_t));
  std::memcpy(&pool.probe_offset, &bytes[8], sizeof(uint64_t));
  std::memcpy(&pool.probe_value, &bytes[16], sizeof(uint64_t));
  return pool;
}

absl::StatusOr<absl::Span<const std::byte>> MapPool(
    int fd, const PoolAnnouncement& pool, uint64_t least_bytes) {
  const auto map = [&]() -> absl::StatusOr<absl::Span<const std::byte>> {
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & kSeals) != kSeals) {
      return absl::InvalidArgumentError(absl::StrCat(
          "shm pool has seals ", seals, ", needs all of ", kSeals));
    }
    struct stat file = {};
    if (fstat(fd, &file) != 0) return Errno("fstat");
    const uint64_t size = static_cast<uint64_t>(file.st_size);
    if (size < least_bytes || size < pool.size_bytes ||
        pool.size_bytes < least_bytes || size < sizeof(uint64_t) ||
        pool.probe_offset > size - sizeof(uint64_t)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "shm pool of ", size, " bytes, announced ", pool.size_bytes,
          ", probe at ", pool.probe_offset, ", manifest needs ", least_bytes));
    }
    void* base = MapAligned(fd, size, PROT_READ);
    if (base == MAP_FAILED) return Errno("mmap");
    const absl::Span<const std::byte> mapping(
        static_cast<const std::byte*>(base), size);
    uint64_t probe;
    std::memcpy(&probe, mapping.data() + pool.probe_offset, sizeof probe);
    if (probe != pool.probe_value) {
      UnmapPool(mapping);
      return absl::InvalidArgumentError("shm probe read something else");
    }
    return mapping;
  };
  const absl::StatusOr<absl::Span<const std::byte>> mapping = map();
  close(fd);
  return mapping;
}

void UnmapPool(absl::Span<const std::byte> mapping) {
  if (!mapping.empty()) {
    munmap(const_cast<std::byte*>(mapping.data()), mapping.size());
  }
}

}  // namespace sluice::kvtransfer
