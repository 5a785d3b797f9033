#ifndef KERNELS_PROBE_H_
#define KERNELS_PROBE_H_

#include <string>
#include <vector>

#include "kernels/op_table.h"

namespace sluice::kernels {

struct ProbeMismatch {
  std::string op;
  Isa isa = Isa::kPortable;
};

// Result of the start-up probe (CPU numerics sections 10, 11).
struct ProbeResult {
  OpTable table;  // `wanted`, each differing op replaced by a lower level
  std::vector<ProbeMismatch> mismatches;
  std::string numerics_id;  // "x86.1/<16 hex digits>"
};

// Runs every op of `wanted` on fixed vectors and compares its bits with the
// portable path. Takes a few ms; single-threaded use of context.pool.
ProbeResult RunProbe(const OpContext& context, const OpTable& wanted);

}  // namespace sluice::kernels

#endif  // KERNELS_PROBE_H_
