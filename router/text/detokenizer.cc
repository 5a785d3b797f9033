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
  std::string text;
  FeedTo(id, &text);
  return text;
}

void Detokenizer::FeedTo(int32_t id, std::string* text) {
  if (options_.skip_special_tokens && tokenizer_->IsSpecial(id)) return;
  absl::string_view bytes = tokenizer_->TokenBytes(id);
  if (bytes.empty()) return;
  if (strip_space_ && absl::StartsWith(bytes, " ")) bytes.remove_prefix(1);
  strip_space_ = false;
  Take(bytes, /*at_end=*/false, text);
}

std::string Detokenizer::Finish() {
  strip_space_ =
      options_.at_text_start && tokenizer_->vocabulary().strips_leading_space();
  std::string text;
  Take("", /*at_end=*/true, &text);
  return text;
}

void Detokenizer::Take(absl::string_view bytes, bool at_end,
                       std::string* text) {
  // Nearly always nothing is held back, and the token is text as it is.
  std::string joined;
  if (!pending_.empty()) {
    joined = absl::StrCat(pending_, bytes);
    pending_.clear();
    bytes = joined;
  }
  size_t run = 0;  // where valid text began that is not added yet
  size_t at = 0;
  while (at < bytes.size()) {
    if (static_cast<uint8_t>(bytes[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Char c = Utf8At(bytes, at);
    if (c.kind == Utf8Char::Kind::kTruncated && !at_end) {
      pending_ = std::string(bytes.substr(at));
      break;
    }
    if (c.kind != Utf8Char::Kind::kValid) {
      absl::StrAppend(text, bytes.substr(run, at - run), kReplacement);
      run = at + c.size_bytes;
    }
    at += c.size_bytes;
  }
  text->append(bytes.data() + run, at - run);
}

std::string Detokenize(const Tokenizer& tokenizer,
                       absl::Span<const int32_t> ids,
                       DetokenizerOptions options) {
  Detokenizer detokenizer(&tokenizer, options);
  std::string text;
  for (int32_t id : ids) detokenizer.FeedTo(id, &text);
  text += detokenizer.Finish();
  return text;
}

}  // namespace sluice::router
