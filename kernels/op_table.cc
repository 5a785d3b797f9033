#include "kernels/op_table.h"

#include "absl/strings/str_cat.h"
#include "kernels/cpu/ops_amx.h"
#include "kernels/cpu/ops_avx2.h"
#include "kernels/cpu/ops_avx512.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/unchecked_op_table.h"

namespace sluice::kernels {
namespace {

constexpr OpTable kPortable = {
    .name = "cpu.portable",
    .isa = Isa::kPortable,
    .embedding = EmbeddingPortable,
    .rms_norm = RmsNormPortable,
    .pack_activations = PackActivationsPortable,
    .matmul = MatmulPortable,
    .append_kv = AppendKvPortable,
    .copy_blocks = CopyBlocksPortable,
    .attention = AttentionPortable,
    .silu_mul = SiluMulPortable,
    .add = AddPortable,
    .sample = SamplePortable,
    .logprobs = LogprobsPortable,
};

// Copying rows out of the table gains nothing from wider registers, so
// embedding has one version.
constexpr OpTable kAvx2 = {
    .name = "cpu.avx2",
    .isa = Isa::kAvx2,
    .embedding = EmbeddingPortable,
    .rms_norm = RmsNormAvx2,
    .pack_activations = PackActivationsAvx2,
    .matmul = MatmulAvx2,
    .append_kv = AppendKvAvx2,
    .copy_blocks = CopyBlocksAvx2,
    .attention = AttentionAvx2,
    .silu_mul = SiluMulAvx2,
    .add = AddAvx2,
    .sample = SampleAvx2,
    .logprobs = LogprobsAvx2,
};

constexpr OpTable kAvx512 = {
    .name = "cpu.avx512",
    .isa = Isa::kAvx512,
    .embedding = EmbeddingPortable,
    .rms_norm = RmsNormAvx512,
    .pack_activations = PackActivationsAvx512,
    .matmul = MatmulAvx512,
    .append_kv = AppendKvAvx512,
    .copy_blocks = CopyBlocksAvx512,
    .attention = AttentionAvx512,
    .silu_mul = SiluMulAvx512,
    .add = AddAvx512,
    .sample = SampleAvx512,
    .logprobs = LogprobsAvx512,
};

// Levels that differ from kAvx512 in their products alone.
constexpr OpTable WithProducts(absl::string_view name, Isa isa,
                               MatmulFn matmul) {
  OpTable table = kAvx512;
  table.name = name;
  table.isa = isa;
  table.matmul = matmul;
  return table;
}
constexpr OpTable kAvx512Bf16 =
    WithProducts("cpu.avx512_bf16", Isa::kAvx512Bf16, MatmulAvx512Bf16);
constexpr OpTable kAmx = WithProducts("cpu.amx", Isa::kAmx, MatmulAmx);

}  // namespace

const OpTable& UncheckedOpTable(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return kPortable;
    case Isa::kAvx2:
      return kAvx2;
    case Isa::kAvx512:
      return kAvx512;
    case Isa::kAvx512Bf16:
      return kAvx512Bf16;
    case Isa::kAmx:
      return kAmx;
  }
  return kPortable;
}

absl::StatusOr<const OpTable*> SelectOpTable(Isa isa) {
  const Isa detected = DetectIsa();
  if (isa > detected) {
    return absl::FailedPreconditionError(
        absl::StrCat("instruction set ", Name(isa),
                     " is not available; this machine has ", Name(detected)));
  }
  return &UncheckedOpTable(isa);
}

}  // namespace sluice::kernels
