#ifndef TESTS_WORKER_MODEL_GGUF_WRITER_H_
#define TESTS_WORKER_MODEL_GGUF_WRITER_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace sluice::worker {

// Writes GGUF files for tests, right ones and wrong ones. Keys and tensors
// appear in the order added.
class GgufWriter {
 public:
  explicit GgufWriter(uint32_t version = 3) : version_(version) {}

  GgufWriter& U32(absl::string_view key, uint32_t value);
  GgufWriter& I32(absl::string_view key, int32_t value);
  GgufWriter& U64(absl::string_view key, uint64_t value);
  GgufWriter& F32(absl::string_view key, float value);
  GgufWriter& Bool(absl::string_view key, bool value);
  GgufWriter& String(absl::string_view key, absl::string_view value);
  GgufWriter& Strings(absl::string_view key,
                      const std::vector<std::string>& values);
  GgufWriter& I32s(absl::string_view key, const std::vector<int32_t>& values);
  // A key of any type with these bytes.
  GgufWriter& Raw(absl::string_view key, uint32_t type,
                  absl::string_view bytes);

  // `shape` as GGUF has it: the contiguous dimension first.
  GgufWriter& Tensor(absl::string_view name, std::vector<uint64_t> shape,
                     uint32_t type, std::string bytes);

  // Alignment of tensors; write general.alignment yourself if not 32.
  void set_alignment(uint64_t alignment) { alignment_ = alignment; }

  std::string Build() const;

 private:
  struct Entry {
    std::string name;
    std::vector<uint64_t> shape;
    uint32_t type = 0;
    std::string bytes;
  };

  uint32_t version_;
  uint64_t alignment_ = 32;
  uint64_t num_keys_ = 0;
  std::string keys_;
  std::vector<Entry> tensors_;
};

// Little-endian bytes of a value.
template <typename T>
std::string BytesOf(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// u64 length and bytes.
std::string GgufString(absl::string_view text);

void WriteFile(const std::string& path, absl::string_view bytes);

}  // namespace sluice::worker

#endif  // TESTS_WORKER_MODEL_GGUF_WRITER_H_
