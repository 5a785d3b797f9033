#ifndef WORKER_MODEL_REGISTRY_H_
#define WORKER_MODEL_REGISTRY_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/architecture.h"

namespace sluice::worker {

// The architecture called `name` in GGUF files and config.json's model_type.
// kUnimplemented listing the known ones.
absl::StatusOr<const Architecture*> FindArchitecture(absl::string_view name);

// The same by the class name of config.json's "architectures".
absl::StatusOr<const Architecture*> FindArchitectureOfClass(
    absl::string_view class_name);

}  // namespace sluice::worker

#endif  // WORKER_MODEL_REGISTRY_H_
