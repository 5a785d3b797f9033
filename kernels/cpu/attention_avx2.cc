#include "kernels/cpu/attention_lanes.h"
#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/ops_avx2.h"

namespace sluice::kernels {
namespace {

// 16 registers, two to a vector: 8 for the chains of 2 rows.
struct Tiling {
  static constexpr int kManyRows = 2;
  static constexpr int kManyVectors = 1;
  static constexpr int kOneRowVectors = 2;
};

}  // namespace

void AttentionAvx2(const OpContext& context, const AttentionArgs& args) {
  AttentionOnPath<AttentionLanesPath<Avx2Lanes, Tiling>>(context, args);
}

}  // namespace sluice::kernels
