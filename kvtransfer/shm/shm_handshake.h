#ifndef KVTRANSFER_SHM_SHM_HANDSHAKE_H_
#define KVTRANSFER_SHM_SHM_HANDSHAKE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kvtransfer/region_table.h"

namespace sluice::kvtransfer {

// System calls of the same-host transport: sequenced-packet sockets with
// abstract names, and sealed memory passed over them. Nothing here blocks; no
// state. Descriptors returned belong to the caller.

// A random name and a socket that listens on it.
struct ShmListener {
  std::string name;
  int fd = -1;
};
absl::StatusOr<ShmListener> ListenAbstract();

// kUnavailable when nobody listens, kInvalidArgument for a name that does not
// fit.
absl::StatusOr<int> ConnectAbstract(const std::string& name);

// kPermissionDenied unless the other end runs as our user.
absl::Status CheckSameUser(int fd);

// Sends one packet, with `pass_fd` attached if it is not -1.
absl::Status SendPacket(int fd, absl::string_view bytes, int pass_fd = -1);

// One received packet. `passed_fd` >= 0 is ours now.
struct ShmPacket {
  std::string bytes;
  int passed_fd = -1;
};
// nullopt when there is none yet; kUnavailable when the other end is gone;
// kInvalidArgument for more than one descriptor or an oversized packet (what
// came with it is closed).
absl::StatusOr<std::optional<ShmPacket>> ReceivePacket(int fd);

// What goes with the descriptor of a pool.
struct PoolAnnouncement {
  uint64_t size_bytes = 0;
  uint64_t probe_offset = 0;
  uint64_t probe_value = 0;
};
std::string Encode(const PoolAnnouncement& pool);
absl::StatusOr<PoolAnnouncement> DecodePool(absl::string_view bytes);

// A peer's pool, mapped read-only. Closes `fd` in any case. kInvalidArgument:
// a seal is missing, the file is smaller than announced or than `least_bytes`,
// or the probe does not read as announced.
absl::StatusOr<absl::Span<const std::byte>> MapPool(
    int fd, const PoolAnnouncement& pool, uint64_t least_bytes);
void UnmapPool(absl::Span<const std::byte> mapping);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_SHM_SHM_HANDSHAKE_H_
