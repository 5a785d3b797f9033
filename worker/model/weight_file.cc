#include "worker/model/weight_file.h"

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace sluice::worker {
namespace {

float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 31u;
  const uint32_t mantissa = half & 1023u;
  uint32_t bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    std::memcpy(&bits, &value, sizeof(bits));
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

// Element `i` of a float tensor.
float ValueAt(const StoredTensor& tensor, int64_t i) {
  if (*tensor.format == kernels::WeightFormat::kF32) {
    float value;
    std::memcpy(&value, tensor.bytes + 4 * i, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, tensor.bytes + 2 * i, 2);
  if (*tensor.format == kernels::WeightFormat::kF16) return HalfToFloat(half);
  const uint32_t bits = uint32_t{half} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

std::string PathOf(const StoredTensor& tensor) {
  return tensor.file == nullptr ? "memory" : tensor.file->path();
}

}  // namespace

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status WeightFile::Add(StoredTensor tensor) {
  if (auto it = tensors_.find(tensor.name); it != tensors_.end()) {
    if (it->second.file == tensor.file) {
      return absl::DataLossError(absl::StrCat(
          tensor.name, ": two tensors of this name in ", PathOf(tensor)));
    }
    return absl::InvalidArgumentError(
        absl::StrCat(tensor.name, ": in two files, ", PathOf(it->second),
                     " and ", PathOf(tensor)));
  }
  std::string name = tensor.name;
  tensors_.emplace(std::move(name), std::move(tensor));
  return absl::OkStatus();
}

const StoredTensor* WeightFile::Find(absl::string_view name) const {
  auto it = tensors_.find(std::string(name));
  return it == tensors_.end() ? nullptr : &it->second;
}

absl::StatusOr<const StoredTensor*> WeightFile::Want(
    absl::string_view name, absl::Span<const int64_t> shape) const {
  const StoredTensor* tensor = Find(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat("tensor ", name, ": wanted shape ",
                                            ShapeText(shape),
                                            ", found no such tensor"));
  }
  if (absl::MakeConstSpan(tensor->shape) != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": wanted shape ", ShapeText(shape),
                     ", found ", ShapeText(tensor->shape)));
  }
  if (!tensor->format.has_value()) {
    return absl::UnimplementedError(
        absl::StrCat("tensor ", name, ": ", container_, " type ",
                     tensor->type_name, " is not supported"));
  }
  if (tensor->file != nullptr) RETURN_IF_ERROR(tensor->file->CheckUnchanged());
  return tensor;
}

void WeightFile::WillRead() const {
  const MappedFile* last = nullptr;
  for (const auto& [name, tensor] : tensors_) {
    if (tensor.file != nullptr && tensor.file.get() != last) {
      last = tensor.file.get();
      last->WillRead();
    }
  }
}

absl::StatusOr<std::vector<float>> WeightFile::WantVector(
    absl::string_view name, int64_t size) const {
  ASSIGN_OR_RETURN(const StoredTensor* tensor, Want(name, {size}));
  if (kernels::BlockElements(*tensor->format) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", name, ": wanted type F32, F16 or BF16, found ",
                     tensor->type_name));
  }
  std::vector<float> values(size);
  for (int64_t i = 0; i < size; ++i) {
    values[i] = ValueAt(*tensor, i);
    if (!std::isfinite(values[i])) {
      return absl::DataLossError(
          absl::StrCat("tensor ", name, ": value ", i, " is ", values[i]));
    }
  }
  return values;
}

}  // namespace sluice::worker
