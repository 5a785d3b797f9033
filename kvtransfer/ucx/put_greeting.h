#ifndef KVTRANSFER_UCX_PUT_GREETING_H_
#define KVTRANSFER_UCX_PUT_GREETING_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::kvtransfer {

// What the two ends of a put link say before it is up, in this order.
enum class PutStep : uint32_t {
  kHello = 0,  // receiver: where I am; then source: I know you
  kReady = 1,  // source: connected, nothing of mine needs you any more
  kKey = 2,    // receiver: keys to my region, and a word to write first
};

// One of those messages; fields besides token are 0 or empty if they belong to
// another step.
struct PutGreeting {
  PutStep step = PutStep::kHello;
  std::string token;    // of the end it is for
  uint64_t pid = 0;     // hello: of the sender
  std::string address;  // the receiver's hello: of its UCX worker
  uint64_t nonce = 0;   // key: to be written to
  uint64_t probe_address = 0;
  std::string probe_key;
  uint64_t region_address = 0;  // key
  uint64_t region_bytes = 0;
  std::string region_key;

  bool operator==(const PutGreeting&) const = default;
};

inline constexpr size_t kMaxGreetingBytes = 4096;

// Integers as 8 little-endian bytes, strings behind their length.
std::string EncodePutGreeting(const PutGreeting& greeting);
// kInvalidArgument for anything Encode does not make.
absl::StatusOr<PutGreeting> DecodePutGreeting(absl::string_view bytes);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_UCX_PUT_GREETING_H_
