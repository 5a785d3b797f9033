#ifndef KERNELS_PROBE_OPS_H_
#define KERNELS_PROBE_OPS_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/op_table.h"

namespace sluice::kernels {

// Collects what an op wrote, as bytes. Every NaN becomes the same one: their
// payloads are not specified.
class ProbeOutput {
 public:
  void AddFloats(absl::Span<const float> values);
  void AddBytes(absl::Span<const uint8_t> bytes);
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// One op on its probe vectors, which never change within a version of the
// numerics.
struct ProbedOp {
  absl::string_view name;  // "matmul", ...
  // The outputs enter numerics_id: not those of ops fused of others, which
  // have no arithmetic of their own.
  bool in_id = true;
  // Calls only this op through `table`; inputs that need other ops come from
  // the portable ones.
  void (*run)(const OpContext& context, const OpTable& table,
              ProbeOutput& output);
  // to.op = from.op.
  void (*take)(OpTable& to, const OpTable& from);
  absl::string_view cell;  // of OpTable: the field that run() calls
  // Lower levels have nothing that only this would meet.
  Isa least_isa = Isa::kPortable;
};

// Every op of an OpTable.
absl::Span<const ProbedOp> ProbedOps();

}  // namespace sluice::kernels

#endif  // KERNELS_PROBE_OPS_H_
