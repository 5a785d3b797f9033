#include "router/text/utf8.h"

#include <cstring>

namespace sluice::router {
namespace {

struct LeadByte {
  int continuation_bytes;  // 0: not a lead byte
  uint8_t second_min;
  uint8_t second_max;
};

// Table 3-7 of the Unicode standard: what may follow a lead byte.
LeadByte ClassifyLead(uint8_t lead) {
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {1, 0x80, 0xBF};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};
  if (lead == 0xED) return {2, 0x80, 0x9F};
  if (lead < 0xF0) return {2, 0x80, 0xBF};
  if (lead == 0xF0) return {3, 0x90, 0xBF};
  if (lead < 0xF4) return {3, 0x80, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Char Utf8At(absl::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(at);
  if (lead < 0x80) return {Utf8Char::Kind::kValid, 1, lead};
  const LeadByte rule = ClassifyLead(lead);
  if (rule.continuation_bytes == 0) return {Utf8Char::Kind::kInvalid, 1, 0};

  uint32_t code_point = lead & (0x3F >> rule.continuation_bytes);
  for (int i = 1; i <= rule.continuation_bytes; ++i) {
    const size_t size = static_cast<size_t>(i);
    if (at + size >= text.size()) {
      return {Utf8Char::Kind::kTruncated, size, 0};
    }
    const uint8_t next = byte(at + size);
    const uint8_t min = i == 1 ? rule.second_min : 0x80;
    const uint8_t max = i == 1 ? rule.second_max : 0xBF;
    if (next < min || next > max) return {Utf8Char::Kind::kInvalid, size, 0};
    code_point = code_point << 6 | (next & 0x3F);
  }
  return {Utf8Char::Kind::kValid,
          static_cast<size_t>(rule.continuation_bytes) + 1, code_point};
}

size_t FindInvalidUtf8(absl::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    while (at + 8 <= text.size()) {
      uint64_t word;
      std::memcpy(&word, text.data() + at, sizeof(word));
      if ((word & 0x8080808080808080u) != 0) break;
      at += 8;
    }
    if (at == text.size()) break;
    const Utf8Char c = Utf8At(text, at);
    if (c.kind != Utf8Char::Kind::kValid) return at;
    at += c.size_bytes;
  }
  return absl::string_view::npos;
}

std::string Utf8Excerpt(absl::string_view bytes, size_t max_bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Char c = Utf8At(bytes, at);
    if (at + c.size_bytes > max_bytes) break;
    if (c.kind == Utf8Char::Kind::kValid) {
      out.append(bytes.data() + at, c.size_bytes);
    } else {
      out += "\xEF\xBF\xBD";
    }
    at += c.size_bytes;
  }
  return out;
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  const auto push = [&](uint32_t byte) {
    out.push_back(static_cast<char>(byte));
  };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | code_point >> 6);
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | code_point >> 12);
    push(0x80 | (code_point >> 6 & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | code_point >> 18);
    push(0x80 | (code_point >> 12 & 0x3F));
    push(0x80 | (code_point >> 6 & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

}  // namespace sluice::router
