#ifndef BASE_SHA256_H_
#define BASE_SHA256_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace sluice {

using Sha256Digest = std::array<uint8_t, 32>;

// Incremental SHA-256 (FIPS 180-4), by OpenSSL. One thread at a time.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  Sha256& Update(absl::string_view bytes);
  // Appends `value` as 4 little-endian bytes.
  Sha256& UpdateU32(uint32_t value);
  // The digest of everything so far. The object must not be used afterwards.
  Sha256Digest Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

Sha256Digest Sha256Of(absl::string_view bytes);

// The digest's bytes as a string, and as lower-case hex.
std::string ToBytes(const Sha256Digest& digest);
std::string ToHex(const Sha256Digest& digest);

}  // namespace sluice

#endif  // BASE_SHA256_H_
