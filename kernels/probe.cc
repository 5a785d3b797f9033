#include "kernels/probe.h"

#include <iterator>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
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
  std::vector<const ProbedOp*> ops;
  std::vector<std::string> want;
  for (const ProbedOp& op : ProbedOps()) {
    if (wanted.isa < op.least_isa) continue;
    ops.push_back(&op);
    want.push_back(OutputOf(context, **portable, op));
  }
  // Several ops try one cell: what replaces it is tried by all of them.
  absl::flat_hash_map<absl::string_view, Isa> level_of;
  bool changed = true;
  for (size_t pass = 0; changed && pass <= std::size(kAllIsas); ++pass) {
    changed = false;
    for (size_t i = 0; i < ops.size(); ++i) {
      const ProbedOp& op = *ops[i];
      Isa& isa = level_of.emplace(op.cell, wanted.isa).first->second;
      while (OutputOf(context, result.table, op) != want[i]) {
        changed = true;
        result.mismatches.push_back({absl::StrCat(op.name), isa});
        if (isa == Isa::kPortable) {  // not our portable cell, then
          op.take(result.table, **portable);
          break;
        }
        const OpTable& below = TableBelow(isa);
        op.take(result.table, below);
        isa = below.isa;
      }
    }
  }
  Sha256 digest;
  for (size_t i = 0; i < ops.size(); ++i) {
    if (!ops[i]->in_id) continue;
    digest.Update(ops[i]->name)
        .UpdateU32(static_cast<uint32_t>(want[i].size()));
    digest.Update(want[i]);
  }
  AddRopeTables(digest);
  const Sha256Digest sum = digest.Finish();
  result.numerics_id =
      absl::StrCat(kFamilyAndVersion, ToHex(sum).substr(0, 16));
  return result;
}

}  // namespace sluice::kernels
