#include "base/random.h"

#include <sys/random.h>

#include <cerrno>

#include "absl/strings/escaping.h"
#include "base/check.h"

namespace sluice {
namespace {

void Fill(void* to, size_t num_bytes) {
  char* p = static_cast<char*>(to);
  while (num_bytes > 0) {
    const ssize_t n = getrandom(p, num_bytes, 0);
    if (n < 0) {
      SLUICE_CHECK(errno == EINTR);
      continue;
    }
    p += n;
    num_bytes -= static_cast<size_t>(n);
  }
}

}  // namespace

std::string RandomBytes(size_t num_bytes) {
  std::string bytes(num_bytes, '\0');
  Fill(bytes.data(), num_bytes);
  return bytes;
}

uint64_t RandomU64() {
  uint64_t value = 0;
  Fill(&value, sizeof(value));
  return value;
}

std::string RandomHexId(size_t num_bytes) {
  return absl::BytesToHexString(RandomBytes(num_bytes));
}

bool ConstantTimeEqual(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  volatile unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = difference | static_cast<unsigned char>(a[i] ^ b[i]);
  }
  return difference == 0;
}

}  // namespace sluice
