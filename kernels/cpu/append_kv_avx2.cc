#include "kernels/cpu/append_kv_rows.h"
#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/ops_avx2.h"
#include "kernels/cpu/rope_lanes.h"

namespace sluice::kernels {
namespace {

struct Path {
  static void Round(const float* x, int64_t n, uint16_t* bf16) {
    for (int64_t i = 0; i < n; i += 16) {
      const int64_t count = n - i < 16 ? n - i : 16;
      alignas(32) uint32_t words[16];
      Avx2Lanes::Store(
          reinterpret_cast<float*>(words),
          Avx2Lanes::RoundToBf16(Avx2Lanes::LoadFirst(x + i, count)));
      for (int64_t j = 0; j < count; ++j) {
        bf16[i + j] = static_cast<uint16_t>(words[j] >> 16);
      }
    }
  }
  static void RotateRow(const RopeArgs& args, int64_t t) {
    sluice::kernels::RotateRow<Avx2Lanes>(args, t);
  }
};

}  // namespace

void AppendKvAvx2(const OpContext& context, const AppendKvArgs& args) {
  AppendKvRows<Path>(context, args);
}

}  // namespace sluice::kernels
