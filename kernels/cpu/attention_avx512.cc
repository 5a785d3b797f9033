#include "kernels/cpu/attention_lanes.h"
#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/ops_avx512.h"

namespace sluice::kernels {
namespace {

// 32 registers: 16 for the chains of 4 rows x 2 vectors, 8 for their totals.
struct Tiling {
  static constexpr int kManyRows = 4;
  static constexpr int kManyVectors = 2;
  static constexpr int kOneRowVectors = 4;
};

}  // namespace

void AttentionAvx512(const OpContext& context, const AttentionArgs& args) {
  AttentionOnPath<AttentionLanesPath<Avx512Lanes, Tiling>>(context, args);
}

}  // namespace sluice::kernels
