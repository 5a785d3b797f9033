#ifndef WORKER_MODEL_WEIGHT_FILE_H_
#define WORKER_MODEL_WEIGHT_FILE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/packed_matrix.h"
#include "worker/model/mapped_file.h"

namespace sluice::worker {

// One tensor as stored, whatever the container. `bytes` points into `file`.
struct StoredTensor {
  std::string name;
  std::string type_name;  // "BF16", "F8_E4M3", "Q4_1", "Q6_K", ...
  // Absent: a type that no weight of ours may have.
  std::optional<kernels::WeightFormat> format;
  std::vector<int64_t> shape;  // row-major, the last is contiguous (k)
  const uint8_t* bytes = nullptr;
  uint64_t num_bytes = 0;
  std::shared_ptr<const MappedFile> file;
};

std::string ShapeText(absl::Span<const int64_t> shape);  // "[512, 64]"

// Every tensor of a model by name: the one table that all views of the
// weights share. Filled while opening, then immutable.
class WeightFile {
 public:
  // kDataLoss for a second tensor of a name from the same file,
  // kInvalidArgument from another one.
  absl::Status Add(StoredTensor tensor);

  const StoredTensor* Find(absl::string_view name) const;
  bool Has(absl::string_view name) const { return Find(name) != nullptr; }

  // The tensor `name`, of exactly `shape` and a format we compute with.
  // kNotFound, kInvalidArgument (shape wanted and found), kUnimplemented
  // (type), kDataLoss (the file changed).
  absl::StatusOr<const StoredTensor*> Want(
      absl::string_view name, absl::Span<const int64_t> shape) const;

  // A norm weight or bias of `size` values: F32, F16 or BF16, widened.
  absl::StatusOr<std::vector<float>> WantVector(absl::string_view name,
                                                int64_t size) const;

  // Asks the system to read the files ahead.
  void WillRead() const;

  const std::map<std::string, StoredTensor, std::less<>>& tensors() const {
    return tensors_;
  }
  // "GGUF" or "safetensors"; names the container in texts.
  const std::string& container() const { return container_; }
  void set_container(std::string name) { container_ = std::move(name); }

 private:
  std::string container_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_WEIGHT_FILE_H_
