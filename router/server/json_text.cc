#include "router/server/json_text.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

// What must be escaped; 0 when the byte stands for itself.
char EscapeOf(char c) {
  switch (c) {
    case '"':
    case '\\':
      return c;
    case '\b':
      return 'b';
    case '\f':
      return 'f';
    case '\n':
      return 'n';
    case '\r':
      return 'r';
    case '\t':
      return 't';
    default:
      return static_cast<unsigned char>(c) < 0x20 ? 'u' : '\0';
  }
}

bool IsAscii(absl::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

}  // namespace

std::string ToValidUtf8(absl::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Char next = Utf8At(bytes, at);
    if (next.kind == Utf8Char::Kind::kValid) {
      absl::StrAppend(&text, bytes.substr(at, next.size_bytes));
    } else {
      AppendUtf8(0xFFFD, text);
    }
    at += next.size_bytes;
  }
  return text;
}

void AppendJsonString(absl::string_view text, std::string& out) {
  std::string valid;
  if (!IsAscii(text)) {
    valid = ToValidUtf8(text);
    text = valid;
  }
  out += '"';
  for (const char c : text) {
    const char escape = EscapeOf(c);
    if (escape == '\0') {
      out += c;
    } else if (escape == 'u') {
      absl::StrAppend(
          &out, "\\u",
          absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad4));
    } else {
      out += '\\';
      out += escape;
    }
  }
  out += '"';
}

void AppendJsonNumber(double value, std::string& out) {
  out += std::isfinite(value) ? nlohmann::json(value).dump() : "null";
}

void AppendComma(std::string& list) {
  if (!list.empty()) list += ',';
}

}  // namespace sluice::router
