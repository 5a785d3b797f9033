#include "tests/worker/model/gguf_writer.h"

#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace sluice::worker {

std::string GgufString(absl::string_view text) {
  return absl::StrCat(BytesOf<uint64_t>(text.size()), text);
}

GgufWriter& GgufWriter::Raw(absl::string_view key, uint32_t type,
                            absl::string_view bytes) {
  absl::StrAppend(&keys_, GgufString(key), BytesOf(type), bytes);
  ++num_keys_;
  return *this;
}

GgufWriter& GgufWriter::U32(absl::string_view key, uint32_t value) {
  return Raw(key, 4, BytesOf(value));
}
GgufWriter& GgufWriter::I32(absl::string_view key, int32_t value) {
  return Raw(key, 5, BytesOf(value));
}
GgufWriter& GgufWriter::U64(absl::string_view key, uint64_t value) {
  return Raw(key, 10, BytesOf(value));
}
GgufWriter& GgufWriter::F32(absl::string_view key, float value) {
  return Raw(key, 6, BytesOf(value));
}
GgufWriter& GgufWriter::Bool(absl::string_view key, bool value) {
  return Raw(key, 7, BytesOf<uint8_t>(value));
}
GgufWriter& GgufWriter::String(absl::string_view key, absl::string_view value) {
  return Raw(key, 8, GgufString(value));
}

GgufWriter& GgufWriter::Strings(absl::string_view key,
                                const std::vector<std::string>& values) {
  std::string bytes =
      absl::StrCat(BytesOf<uint32_t>(8), BytesOf<uint64_t>(values.size()));
  for (const std::string& value : values) {
    absl::StrAppend(&bytes, GgufString(value));
  }
  return Raw(key, 9, bytes);
}

GgufWriter& GgufWriter::I32s(absl::string_view key,
                             const std::vector<int32_t>& values) {
  std::string bytes =
      absl::StrCat(BytesOf<uint32_t>(5), BytesOf<uint64_t>(values.size()));
  for (int32_t value : values) absl::StrAppend(&bytes, BytesOf(value));
  return Raw(key, 9, bytes);
}

GgufWriter& GgufWriter::Tensor(absl::string_view name,
                               std::vector<uint64_t> shape, uint32_t type,
                               std::string bytes) {
  tensors_.push_back({.name = std::string(name),
                      .shape = std::move(shape),
                      .type = type,
                      .bytes = std::move(bytes)});
  return *this;
}

std::string GgufWriter::Build() const {
  std::string out = absl::StrCat("GGUF", BytesOf(version_),
                                 BytesOf<uint64_t>(tensors_.size()),
                                 BytesOf(num_keys_), keys_);
  uint64_t offset = 0;
  for (const Entry& tensor : tensors_) {
    absl::StrAppend(&out, GgufString(tensor.name),
                    BytesOf<uint32_t>(tensor.shape.size()));
    for (uint64_t size : tensor.shape) absl::StrAppend(&out, BytesOf(size));
    absl::StrAppend(&out, BytesOf(tensor.type), BytesOf(offset));
    offset += (tensor.bytes.size() + alignment_ - 1) / alignment_ * alignment_;
  }
  const auto align = [&out, this] {
    out.resize((out.size() + alignment_ - 1) / alignment_ * alignment_);
  };
  align();
  for (const Entry& tensor : tensors_) {
    out += tensor.bytes;
    align();
  }
  return out;
}

void WriteFile(const std::string& path, absl::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  SLUICE_CHECK(out.good());
}

}  // namespace sluice::worker
