#include "worker/model/registry.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/model/arch/architectures.h"

namespace sluice::worker {
namespace {

// In the order texts list them.
const Architecture* const* All(int* count) {
  static const Architecture* const kAll[] = {
      &LlamaArchitecture(), &Qwen2Architecture(), &Qwen3Architecture()};
  *count = 3;
  return kAll;
}

absl::Status Unknown(absl::string_view name) {
  int count = 0;
  const Architecture* const* all = All(&count);
  std::string known;
  for (int i = 0; i < count; ++i) {
    absl::StrAppend(&known, i == 0 ? "" : ", ", all[i]->name);
  }
  return absl::UnimplementedError(
      absl::StrCat("unknown architecture \"", name, "\"; known: ", known));
}

}  // namespace

absl::StatusOr<const Architecture*> FindArchitecture(absl::string_view name) {
  int count = 0;
  const Architecture* const* all = All(&count);
  for (int i = 0; i < count; ++i) {
    if (all[i]->name == name) return all[i];
  }
  return Unknown(name);
}

absl::StatusOr<const Architecture*> FindArchitectureOfClass(
    absl::string_view class_name) {
  int count = 0;
  const Architecture* const* all = All(&count);
  for (int i = 0; i < count; ++i) {
    if (all[i]->class_name == class_name) return all[i];
  }
  return Unknown(class_name);
}

}  // namespace sluice::worker
