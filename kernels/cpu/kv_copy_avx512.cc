#include "kernels/cpu/kv_copy_rows.h"
#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/ops_avx512.h"
#include "kernels/cpu/ops_portable.h"

namespace sluice::kernels {
namespace {

struct Avx512Rounder {
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
};

}  // namespace

void WriteKvAvx512(const OpContext& context, const WriteKvArgs& args) {
  WriteKvRows<Avx512Rounder>(context, args);
}

// Copying bytes has one version: libc's.
void CopyBlocksAvx512(const OpContext& context, const CopyBlocksArgs& args) {
  CopyBlocksPortable(context, args);
}

}  // namespace sluice::kernels
