#ifndef BASE_RANDOM_H_
#define BASE_RANDOM_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace sluice {

// Unguessable bytes of the operating system. Any thread. For ids and
// capabilities; never for anything that must be repeatable.
std::string RandomBytes(size_t num_bytes);
uint64_t RandomU64();

// `num_bytes` random bytes as 2 * num_bytes lower-case hex digits.
std::string RandomHexId(size_t num_bytes);

// Compares in a time that depends on the lengths only.
bool ConstantTimeEqual(absl::string_view a, absl::string_view b);

}  // namespace sluice

#endif  // BASE_RANDOM_H_
