// Any bytes as a GGUF file: a status or a file whose tensors lie inside the
// bytes and whose metadata can be understood or refused.

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "base/check.h"
#include "worker/model/gguf.h"
#include "worker/model/model_config.h"
#include "worker/model/model_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto file = sluice::worker::ParseGguf(bytes, "fuzz", nullptr);
  if (!file.ok()) return 0;
  for (const auto& [name, tensor] : file->weights.tensors()) {
    SLUICE_CHECK(tensor.bytes >= data);
    SLUICE_CHECK(tensor.bytes + tensor.num_bytes <= data + size);
    if (tensor.shape.size() == 1) {
      (void)file->weights.WantVector(name, tensor.shape[0]);
    }
  }
  (void)sluice::worker::ConfigFromGguf(*file);
  (void)sluice::worker::VocabularyFromGguf(file->metadata);
  return 0;
}
