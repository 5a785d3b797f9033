#include "router/text/detokenizer.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace

Detokenizer::Detokenizer(const Tokenizer* tokenizer, DetokenizerOptions options)
    : tokenizer_(tokenizer),
      options_(options),
      strip_space_(options.at_text_start &&
                   tokenizer->vocabulary().strips_leading_space()) {}

std::string Detokenizer::Feed(int32_t id) {
  if (options_.skip_special_tokens && tokenizer_->IsSpecial(id)) return "";
  absl::string_view bytes = tokenizer_->TokenBytes(id);
  if (bytes.empty()) return "";
  if (strip_space_ && absl::StartsWith(bytes, " ")) bytes.remove_prefix(1);
  strip_space_ = false;
  absl::StrAppend(&pending_, bytes);
  return TakeDecided(/*at_end=*/false);
}

std::string Detokenizer::Finish() {
  strip_space_ =
      options_.at_text_start && tokenizer_->vocabulary().strips_leading_space();
  return TakeDecided(/*at_end=*/true);
}

std::string Detokenizer::TakeDecided(bool at_end) {
  std::string text;
  size_t at = 0;
  while (at < pending_.size()) {
    const Utf8Char c = Utf8At(pending_, at);
    if (c.kind == Utf8Char::Kind::kTruncated && !at_end) break;
    if (c.kind == Utf8Char::Kind::kValid) {
      text.append(pending_, at, c.size_bytes);
    } else {
      absl::StrAppend(&text, kReplacement);
    }
    at += c.size_bytes;
  }
  pending_.erase(0, at);
  return text;
}

std::string Detokenize(const Tokenizer& tokenizer,
                       absl::Span<const int32_t> ids,
                       DetokenizerOptions options) {
  Detokenizer detokenizer(&tokenizer, options);
  std::string text;
  for (int32_t id : ids) text += detokenizer.Feed(id);
  text += detokenizer.Finish();
  return text;
}

}  // namespace sluice::router
