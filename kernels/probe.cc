#include "kernels/probe.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sha256.h"
#include "kernels/probe_ops.h"
#include "kernels/rope_table.h"

namespace sluice::kernels {
namespace {

// Grows with every change of the arithmetic (CPU numerics sections 2 to 9, or
// of sampling).
constexpr char kFamilyAndVersion[] = "x86.1/";

std::string OutputOf(const OpContext& context, const OpTable& table,
                     const ProbedOp& op) {
  ProbeOutput output;
  op.run(context, table, output);
  return output.bytes();
}

// Levels below the detected one always exist.
const OpTable& TableBelow(Isa isa) {
  const absl::StatusOr<const OpTable*> table =
      SelectOpTable(static_cast<Isa>(static_cast<int>(isa) - 1));
  SLUICE_CHECK(table.ok());
  return **table;
}

void AddRopeTable(const RopeParams& params, Sha256& digest) {
  constexpr int64_t kPositions = 64;
  const RopeTableStorage storage(params, kPositions);
  const RopeTable table = storage.view();
  const size_t bytes =
      static_cast<size_t>(table.positions * (table.rot / 2)) * sizeof(float);
  digest.Update({reinterpret_cast<const char*>(table.cos), bytes});
  digest.Update({reinterpret_cast<const char*>(table.sin), bytes});
}

// Frequencies of every scaling; large factors reach large angles.
void AddRopeTables(Sha256& digest) {
  AddRopeTable({.rot = 64}, digest);
  AddRopeTable({.rot = 64,
                .base = 500000,
                .scaling = RopeScaling::kLlama3,
                .factor = 32,
                .low_freq_factor = 1,
                .high_freq_factor = 4,
                .original_positions = 8192},
               digest);
  AddRopeTable({.rot = 64,
                .base = 1000000,
                .scaling = RopeScaling::kYarn,
                .factor = 4,
                .original_positions = 32768,
                .attention_factor = YarnAttentionFactor(4)},
               digest);
}

}  // namespace

ProbeResult RunProbe(const OpContext& context, const OpTable& wanted) {
  const absl::StatusOr<const OpTable*> portable = SelectOpTable(Isa::kPortable);
  SLUICE_CHECK(portable.ok());
  ProbeResult result = {.table = wanted};
  Sha256 digest;
  for (const ProbedOp& op : ProbedOps()) {
    if (wanted.isa < op.least_isa) continue;
    const std::string want = OutputOf(context, **portable, op);
    std::string got = OutputOf(context, result.table, op);
    Isa isa = wanted.isa;
    while (got != want) {
      result.mismatches.push_back({absl::StrCat(op.name), isa});
      if (isa == Isa::kPortable) {  // not our portable cell, then
        op.take(result.table, **portable);
        got = want;
        break;
      }
      const OpTable& below = TableBelow(isa);
      op.take(result.table, below);
      isa = below.isa;
      got = OutputOf(context, result.table, op);
    }
    if (!op.in_id) continue;
    digest.Update(op.name).UpdateU32(static_cast<uint32_t>(got.size()));
    digest.Update(got);
  }
  AddRopeTables(digest);
  const Sha256Digest sum = digest.Finish();
  result.numerics_id =
      absl::StrCat(kFamilyAndVersion, ToHex(sum).substr(0, 16));
  return result;
}

}  // namespace sluice::kernels
