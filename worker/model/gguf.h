#ifndef WORKER_MODEL_GGUF_H_
#define WORKER_MODEL_GGUF_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/model/mapped_file.h"
#include "worker/model/weight_file.h"

namespace sluice::worker {

// A metadata value. Unsigned and signed integers are widened to 64 bits, f32
// to f64.
using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string,
                               std::vector<uint64_t>, std::vector<int64_t>,
                               std::vector<double>, std::vector<bool>,
                               std::vector<std::string>>;

// Metadata of a GGUF file by key. Absent keys are nullopt-like (nullptr or
// kNotFound); a value of another kind is kInvalidArgument naming the key.
class GgufMetadata {
 public:
  std::map<std::string, GgufValue, std::less<>> values;

  bool Has(absl::string_view key) const;
  absl::StatusOr<std::string> String(absl::string_view key) const;
  // Any integer kind that is >= 0.
  absl::StatusOr<int64_t> Count(absl::string_view key) const;
  absl::StatusOr<int64_t> CountOr(absl::string_view key,
                                  int64_t fallback) const;
  absl::StatusOr<double> Number(absl::string_view key) const;
  absl::StatusOr<double> NumberOr(absl::string_view key, double fallback) const;
  absl::StatusOr<bool> Bool(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> Strings(absl::string_view key) const;
  absl::StatusOr<std::vector<double>> Numbers(absl::string_view key) const;

 private:
  absl::StatusOr<const GgufValue*> Get(absl::string_view key) const;
};

struct GgufFile {
  uint32_t version = 0;
  GgufMetadata metadata;
  WeightFile weights;  // shapes row-major: GGUF's [k, n] is [n, k] here
};

// Reads the container (quantisation specification section 10.1), versions 2
// and 3. Every count and length is checked against the file before anything
// is allocated. kDataLoss for what is malformed, naming the file and, from the
// tensor table on, the tensor; kUnimplemented for another version.
absl::StatusOr<GgufFile> ReadGguf(
    const std::shared_ptr<const MappedFile>& file);

// Whether the file starts like a GGUF file.
bool LooksLikeGguf(const MappedFile& file);

// As ReadGguf over memory, for the fuzzer; the tensors name no file.
absl::StatusOr<GgufFile> ParseGguf(
    absl::string_view bytes, absl::string_view path,
    const std::shared_ptr<const MappedFile>& file);

}  // namespace sluice::worker

#endif  // WORKER_MODEL_GGUF_H_
