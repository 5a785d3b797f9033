#include "router/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "router/text/normalizer.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

uint32_t LastCodePoint(absl::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return Utf8At(text, at).code_point;
}

bool StandsAlone(absl::string_view text, size_t begin, size_t end) {
  const bool left =
      begin == 0 || !IsWordChar(LastCodePoint(text.substr(0, begin)));
  const bool right =
      end == text.size() || !IsWordChar(Utf8At(text, end).code_point);
  return left && right;
}

size_t SpacesBegin(absl::string_view text, size_t begin) {
  while (begin > 0) {
    size_t at = begin - 1;
    while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
    if (!IsWhiteSpace(Utf8At(text, at).code_point)) break;
    begin = at;
  }
  return begin;
}

size_t SpacesEnd(absl::string_view text, size_t end) {
  while (end < text.size()) {
    const Utf8Char c = Utf8At(text, end);
    if (!IsWhiteSpace(c.code_point)) break;
    end += c.size_bytes;
  }
  return end;
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    trie_.Insert(tokens_[i].content, static_cast<int32_t>(i));
  }
}

absl::Status AddedTokenFinder::Visit(absl::string_view text, bool with_special,
                                     Visitor visitor) const {
  size_t done = 0;  // everything before is visited
  for (size_t at = 0; at < text.size();) {
    int32_t found = -1;
    trie_.ForEachPrefix(text, at,
                        [&](int32_t index, size_t) { found = index; });
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(found)];
    size_t begin = at;
    size_t end = at + token.content.size();
    at = end;
    if (token.special && !with_special) continue;
    if (token.single_word && !StandsAlone(text, begin, end)) continue;
    if (token.lstrip) begin = SpacesBegin(text, begin);
    begin = std::max(begin, done);
    if (token.rstrip) end = SpacesEnd(text, end);
    if (begin > done) {
      RETURN_IF_ERROR(visitor(nullptr, text.substr(done, begin - done), done));
    }
    RETURN_IF_ERROR(visitor(&token, text.substr(begin, end - begin), begin));
    done = end;
    at = std::max(at, end);
  }
  if (done < text.size()) return visitor(nullptr, text.substr(done), done);
  return absl::OkStatus();
}

}  // namespace sluice::router
