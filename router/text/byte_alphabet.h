#ifndef ROUTER_TEXT_BYTE_ALPHABET_H_
#define ROUTER_TEXT_BYTE_ALPHABET_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace sluice::router {

// Byte-level vocabularies spell each byte as one printable character (GPT-2's
// table). The bytes that `text` spells, or nullopt if it uses any other
// character.
std::optional<std::string> BytesOfAlphabet(absl::string_view text);

// The byte that a fallback token such as "<0x0A>" stands for, or nullopt.
std::optional<uint8_t> ByteOfFallbackToken(absl::string_view token);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_BYTE_ALPHABET_H_
