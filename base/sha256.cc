#include "base/sha256.h"

#include <openssl/evp.h>

#include "absl/strings/escaping.h"
#include "base/check.h"

namespace sluice {

struct Sha256::Context {
  EVP_MD_CTX* md = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(md); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  SLUICE_CHECK(EVP_DigestInit_ex(context_->md, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

Sha256& Sha256::Update(absl::string_view bytes) {
  SLUICE_CHECK(EVP_DigestUpdate(context_->md, bytes.data(), bytes.size()) == 1);
  return *this;
}

Sha256& Sha256::UpdateU32(uint32_t value) {
  const char bytes[4] = {
      static_cast<char>(value), static_cast<char>(value >> 8),
      static_cast<char>(value >> 16), static_cast<char>(value >> 24)};
  return Update({bytes, sizeof bytes});
}

Sha256Digest Sha256::Finish() {
  Sha256Digest digest;
  unsigned int size = 0;
  SLUICE_CHECK(EVP_DigestFinal_ex(context_->md, digest.data(), &size) == 1);
  SLUICE_CHECK(size == digest.size());
  return digest;
}

Sha256Digest Sha256Of(absl::string_view bytes) {
  return Sha256().Update(bytes).Finish();
}

std::string ToBytes(const Sha256Digest& digest) {
  return std::string(digest.begin(), digest.end());
}

std::string ToHex(const Sha256Digest& digest) {
  return absl::BytesToHexString(ToBytes(digest));
}

}  // namespace sluice
