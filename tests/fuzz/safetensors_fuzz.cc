// Any bytes as a safetensors file: a status or tensors inside the bytes.

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "base/check.h"
#include "worker/model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  sluice::worker::WeightFile weights;
  if (!sluice::worker::AddSafetensors(bytes, "fuzz", nullptr, &weights).ok()) {
    return 0;
  }
  for (const auto& [name, tensor] : weights.tensors()) {
    SLUICE_CHECK(tensor.bytes >= data);
    SLUICE_CHECK(tensor.bytes + tensor.num_bytes <= data + size);
    if (tensor.shape.size() == 1) {
      (void)weights.WantVector(name, tensor.shape[0]);
    }
  }
  return 0;
}
