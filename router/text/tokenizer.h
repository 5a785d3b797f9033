#ifndef ROUTER_TEXT_TOKENIZER_H_
#define ROUTER_TEXT_TOKENIZER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "router/text/vocabulary.h"

namespace sluice::router {

struct EncodeOptions {
  // Adds what the model wants around every text (BOS, EOS).
  bool add_special = false;
  // Text that spells a special token becomes that token. User-defined tokens
  // that are not special are always found.
  bool parse_special = false;
};

struct Encoding {
  std::vector<int32_t> ids;
  // Bytes that no token covers; they are dropped.
  uint64_t unencodable_bytes = 0;
};

// Text <-> token ids of one model. Immutable after creation, so every method
// is thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // kInvalidArgument: `text` is not UTF-8, or a pattern of the model's own
  // pre-tokenizer exceeds its step limit on it.
  virtual absl::StatusOr<Encoding> Encode(absl::string_view text,
                                          EncodeOptions options) const = 0;
  virtual const Vocabulary& vocabulary() const = 0;

  // The exact bytes of one token, valid as long as the tokenizer. Empty for
  // an id outside the vocabulary (a model may have spare ids).
  absl::string_view TokenBytes(int32_t id) const {
    return vocabulary().TokenBytes(id);
  }
  bool IsSpecial(int32_t id) const { return vocabulary().IsSpecial(id); }
  int32_t vocab_size() const { return vocabulary().size(); }
  // -1: the model has none.
  int32_t bos_id() const { return vocabulary().bos_id(); }
  int32_t eos_id() const { return vocabulary().eos_id(); }
  // All ids that end a generation, without repeats; may be empty.
  const std::vector<int32_t>& eos_ids() const { return vocabulary().eos_ids(); }
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TOKENIZER_H_
