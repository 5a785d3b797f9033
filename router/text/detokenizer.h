#ifndef ROUTER_TEXT_DETOKENIZER_H_
#define ROUTER_TEXT_DETOKENIZER_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "router/text/tokenizer.h"

namespace sluice::router {

struct DetokenizerOptions {
  // Special tokens give no text.
  bool skip_special_tokens = true;
  // The ids begin a text, so a space that encoding put there is removed.
  // False for what a model generates after a prompt.
  bool at_text_start = false;
};

// Turns token ids into text, one at a time. What is given out never splits a
// code point: bytes that may still become one are held back; bytes that never
// can are U+FFFD, one for each maximal invalid part. A space between tokens
// exists only where a token contains it. Exact bytes of a token:
// Tokenizer::TokenBytes(). One thread at a time.
class Detokenizer {
 public:
  // `tokenizer` must outlive this object.
  Detokenizer(const Tokenizer* tokenizer, DetokenizerOptions options);

  // The text that `id` completes; often empty, sometimes several characters.
  // An id outside the vocabulary has no bytes.
  std::string Feed(int32_t id);
  // The same, added to `text`.
  void FeedTo(int32_t id, std::string* text);

  // The held-back rest, as U+FFFD. The object starts afresh.
  std::string Finish();

 private:
  // Adds what is decided of the held-back rest and `bytes` to `text`.
  void Take(absl::string_view bytes, bool at_end, std::string* text);

  const Tokenizer* const tokenizer_;
  const DetokenizerOptions options_;
  bool strip_space_;     // before the next text
  std::string pending_;  // an undecided beginning of a code point
};

// The whole text of `ids`.
std::string Detokenize(const Tokenizer& tokenizer,
                       absl::Span<const int32_t> ids,
                       DetokenizerOptions options);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_DETOKENIZER_H_
