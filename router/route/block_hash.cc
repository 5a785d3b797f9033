#include "router/route/block_hash.h"

#include <string>

#include "base/check.h"
#include "base/sha256.h"

namespace sluice::router {
namespace {

uint64_t FirstWord(const Sha256Digest& digest) {
  uint64_t word = 0;
  for (int i = 7; i >= 0; --i) word = word << 8 | digest[i];
  return word;
}

void AppendU32(uint32_t value, std::string& out) {
  for (int i = 0; i < 4; ++i) {
    out.push_back(static_cast<char>(value >> (8 * i)));
  }
}

}  // namespace

std::vector<uint64_t> CacheableBlockHashes(const BlockHashRoot& root,
                                           uint32_t block_tokens,
                                           absl::Span<const uint32_t> ids) {
  SLUICE_CHECK(block_tokens > 0);
  std::vector<uint64_t> words;
  if (ids.empty()) return words;
  Sha256Digest hash = Sha256()
                          .Update("sluice.kv.1")
                          .Update(absl::string_view("\0", 1))
                          .Update(root.fingerprint)
                          .UpdateU32(0)
                          .UpdateU32(static_cast<uint32_t>(root.salt.size()))
                          .Update(root.salt)
                          .Finish();
  const size_t num_blocks = (ids.size() - 1) / block_tokens;
  words.reserve(num_blocks);
  std::string block;
  for (size_t b = 0; b < num_blocks; ++b) {
    block = ToBytes(hash);
    AppendU32(block_tokens, block);
    for (uint32_t id : ids.subspan(b * block_tokens, block_tokens)) {
      AppendU32(id, block);
    }
    AppendU32(0, block);  // no extras
    hash = Sha256Of(block);
    words.push_back(FirstWord(hash));
  }
  return words;
}

}  // namespace sluice::router
