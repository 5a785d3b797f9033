#ifndef WORKER_MODEL_SAFETENSORS_H_
#define WORKER_MODEL_SAFETENSORS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/mapped_file.h"
#include "worker/model/weight_file.h"

namespace sluice::worker {

// Adds the tensors of one file to `weights` (operators specification section
// 7). kDataLoss with file and tensor for what is malformed, kUnimplemented
// for an unknown dtype. `bytes` are the file's.
absl::Status AddSafetensors(absl::string_view bytes, absl::string_view path,
                            const std::shared_ptr<const MappedFile>& file,
                            WeightFile* weights);

// The tensors of a folder: the files that model.safetensors.index.json names,
// or every *.safetensors in it. Each file is mapped once. kNotFound when there
// are none; kInvalidArgument for an index that names a path outside.
absl::StatusOr<WeightFile> ReadSafetensorsFolder(const std::string& folder);

// The names of those files, without the folder, ascending.
absl::StatusOr<std::vector<std::string>> SafetensorsFilesOf(
    const std::string& folder);

}  // namespace sluice::worker

#endif  // WORKER_MODEL_SAFETENSORS_H_
