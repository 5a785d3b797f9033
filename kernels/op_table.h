#ifndef KERNELS_OP_TABLE_H_
#define KERNELS_OP_TABLE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/append_kv.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/kv_copy.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/sample.h"

namespace sluice::kernels {

// Instruction-set levels of x86, lowest first; all give the same bits.
enum class Isa : uint8_t { kPortable, kAvx2, kAvx512, kAvx512Bf16, kAmx };
inline constexpr Isa kAllIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512,
                                   Isa::kAvx512Bf16, Isa::kAmx};

absl::string_view Name(Isa isa);  // "portable", "avx2", "avx512",
                                  // "avx512_bf16", "amx"

// kInvalidArgument for an unknown name.
absl::StatusOr<Isa> ParseIsa(absl::string_view name);

// The highest level this CPU and operating system run. The first call asks the
// system for AMX's tiles, for the whole process; refused, the level is lower.
Isa DetectIsa();

// One function per operator. Filled once, immutable, never null: a level
// without its own version of an op names the next lower one.
struct OpTable {
  absl::string_view name;  // "cpu.portable", "cpu.avx2", ..., "cpu.amx"
  Isa isa = Isa::kPortable;
  EmbeddingFn embedding = nullptr;
  RmsNormFn rms_norm = nullptr;
  PackActivationsFn pack_activations = nullptr;
  MatmulFn matmul = nullptr;
  AppendKvFn append_kv = nullptr;
  CopyBlocksFn copy_blocks = nullptr;
  AttentionFn attention = nullptr;
  SiluMulFn silu_mul = nullptr;
  AddFn add = nullptr;
  SampleFn sample = nullptr;
  LogprobsFn logprobs = nullptr;
};

// The table of `isa`. Lives for the whole process. kFailedPrecondition when
// `isa` is above DetectIsa().
absl::StatusOr<const OpTable*> SelectOpTable(Isa isa);

}  // namespace sluice::kernels

#endif  // KERNELS_OP_TABLE_H_
