#ifndef ROUTER_ROUTE_BLOCK_HASH_H_
#define ROUTER_ROUTE_BLOCK_HASH_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sluice::router {

// The root of a request's block hashes, as the workers compute them:
// H("sluice.kv.1" 0x00 fingerprint, u32 len adapter, u32 len salt), no adapter.
struct BlockHashRoot {
  absl::string_view fingerprint;  // 32 bytes
  absl::string_view salt;         // at most 256 bytes
};

// First 8 bytes, little endian, of the hash of each full block of `ids` that a
// prefix cache may serve: floor((len - 1) / block_tokens) of them, because at
// least one token is always computed. block_tokens > 0.
std::vector<uint64_t> CacheableBlockHashes(const BlockHashRoot& root,
                                           uint32_t block_tokens,
                                           absl::Span<const uint32_t> ids);

}  // namespace sluice::router

#endif  // ROUTER_ROUTE_BLOCK_HASH_H_
