#ifndef ROUTER_TEXT_TOKENIZER_LIMITS_H_
#define ROUTER_TEXT_TOKENIZER_LIMITS_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sluice::router {

// What a tokenizer may hold at most; more is kInvalidArgument.
inline constexpr size_t kMaxVocabTokens = size_t{1} << 22;
inline constexpr size_t kMaxMerges = size_t{1} << 22;
inline constexpr size_t kMaxTokenBytes = size_t{64} << 10;
inline constexpr size_t kMaxTokenizerJsonBytes = size_t{256} << 20;

inline absl::Status CheckLimit(absl::string_view what, size_t value,
                               size_t limit) {
  if (value <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer: ", what, " ", value, " exceeds ", limit));
}

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TOKENIZER_LIMITS_H_
