#ifndef ROUTER_TEXT_UTF8_H_
#define ROUTER_TEXT_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace sluice::router {

// What stands at one position of a byte string.
struct Utf8Char {
  enum class Kind {
    kValid,      // one whole code point
    kInvalid,    // a maximal invalid part (Unicode 15, section 3.9)
    kTruncated,  // a valid beginning, cut off by the end of the text
  };
  Kind kind;
  size_t size_bytes;    // >= 1
  uint32_t code_point;  // kValid only
};

// The code point at byte `at` < text.size().
Utf8Char Utf8At(absl::string_view text, size_t at);

// Bytes of the code point whose first byte is `lead`, in valid text.
inline size_t Utf8SizeOfLead(uint8_t lead) {
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// Position of the first byte that is not valid UTF-8, or npos.
size_t FindInvalidUtf8(absl::string_view text);

// At most the first `max_bytes` of any bytes, as valid UTF-8 for a message: no
// code point is cut, and what is invalid is U+FFFD.
std::string Utf8Excerpt(absl::string_view bytes, size_t max_bytes);

// `code_point` must be a Unicode scalar value.
void AppendUtf8(uint32_t code_point, std::string& out);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_UTF8_H_
