#ifndef KVTRANSFER_TRANSFER_ID_H_
#define KVTRANSFER_TRANSFER_ID_H_

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::kvtransfer {

// 128 random bits that name one transfer on both sides.
struct TransferId {
  std::array<uint8_t, 16> bytes = {};

  bool operator==(const TransferId&) const = default;

  template <typename H>
  friend H AbslHashValue(H h, const TransferId& id) {
    return H::combine(std::move(h), id.bytes);
  }
};

// The secret that lets one source claim one ticket.
using Capability = std::array<uint8_t, 16>;

// Lower-case hex, for logs.
std::string ToHex(const TransferId& id);
// The 16 raw bytes as a wire carries them; kInvalidArgument for other sizes.
std::string ToBytes(const TransferId& id);
absl::StatusOr<TransferId> ParseTransferId(absl::string_view bytes);
std::string ToBytes(const Capability& capability);
absl::StatusOr<Capability> ParseCapability(absl::string_view bytes);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TRANSFER_ID_H_
