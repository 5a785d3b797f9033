#include "kvtransfer/transfer_id.h"

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace sluice::kvtransfer {

std::string ToBytes(const TransferId& id) {
  return std::string(id.bytes.begin(), id.bytes.end());
}

std::string ToHex(const TransferId& id) {
  return absl::BytesToHexString(ToBytes(id));
}

absl::StatusOr<TransferId> ParseTransferId(absl::string_view bytes) {
  TransferId id;
  if (bytes.size() != id.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("transfer_id has ", bytes.size(), " bytes, want 16"));
  }
  std::memcpy(id.bytes.data(), bytes.data(), bytes.size());
  return id;
}

std::string ToBytes(const Capability& capability) {
  return std::string(capability.begin(), capability.end());
}

absl::StatusOr<Capability> ParseCapability(absl::string_view bytes) {
  Capability capability;
  if (bytes.size() != capability.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("capability has ", bytes.size(), " bytes, want 16"));
  }
  std::memcpy(capability.data(), bytes.data(), bytes.size());
  return capability;
}

}  // namespace sluice::kvtransfer
