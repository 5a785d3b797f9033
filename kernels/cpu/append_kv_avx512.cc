#include "kernels/cpu/append_kv_rows.h"
#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/ops_avx512.h"
#include "kernels/cpu/rope_lanes.h"

namespace sluice::kernels {
namespace {

struct Path {
  static void Round(const float* x, int64_t n, uint16_t* bf16) {
    for (int64_t i = 0; i < n; i += 16) {
      const int64_t count = n - i < 16 ? n - i : 16;
      const __m512i words = _mm512_castps_si512(
          Avx512Lanes::RoundToBf16(Avx512Lanes::LoadFirst(x + i, count)));
      _mm256_mask_storeu_epi16(
          bf16 + i, Avx512Lanes::First(count),
          _mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
    }
  }
  static void RotateRow(const RopeArgs& args, int64_t t) {
    sluice::kernels::RotateRow<Avx512Lanes>(args, t);
  }
};

}  // namespace

void AppendKvAvx512(const OpContext& context, const AppendKvArgs& args) {
  AppendKvRows<Path>(context, args);
}

}  // namespace sluice::kernels
