#include "router/text/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

constexpr size_t kAlphabetEnd = 0x144;

// Character -> byte, or -1. Printable Latin-1 stands for itself; the other
// bytes take 0x100, 0x101, ... in order.
std::array<int, kAlphabetEnd> MakeTable() {
  std::array<int, kAlphabetEnd> table;
  table.fill(-1);
  size_t extra = 0x100;
  for (size_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) ||
                           (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    table[printable ? byte : extra++] = static_cast<int>(byte);
  }
  return table;
}

}  // namespace

std::optional<std::string> BytesOfAlphabet(absl::string_view text) {
  static const std::array<int, kAlphabetEnd> table = MakeTable();
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = Utf8At(text, at);
    if (c.kind != Utf8Char::Kind::kValid || c.code_point >= kAlphabetEnd ||
        table[c.code_point] < 0) {
      return std::nullopt;
    }
    out.push_back(static_cast<char>(table[c.code_point]));
    at += c.size_bytes;
  }
  return out;
}

std::optional<uint8_t> ByteOfFallbackToken(absl::string_view token) {
  uint32_t byte = 0;
  if (token.size() != 6 || !absl::StartsWith(token, "<0x") || token[5] != '>' ||
      !absl::SimpleHexAtoi(token.substr(3, 2), &byte)) {
    return std::nullopt;
  }
  return static_cast<uint8_t>(byte);
}

}  // namespace sluice::router
