#include "kvtransfer/transfer_id.h"

#include <sys/random.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

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

bool EqualSecrets(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |=
        static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  return difference == 0;
}

std::string RandomBytes(int num_bytes) {
  std::string bytes(num_bytes, '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = getrandom(&bytes[done], bytes.size() - done, 0);
    SLUICE_CHECK(got > 0 || errno == EINTR);
    if (got > 0) done += static_cast<size_t>(got);
  }
  return bytes;
}

}  // namespace sluice::kvtransfer
