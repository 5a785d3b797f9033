#ifndef TESTS_KERNELS_MATMUL_CASES_H_
#define TESTS_KERNELS_MATMUL_CASES_H_

#include <cstring>
#include <string>
#include <vector>

#include "kernels/aligned_bytes.h"
#include "kernels/cpu/ops_amx.h"
#include "kernels/cpu/ops_avx2.h"
#include "kernels/cpu/ops_avx512.h"
#include "kernels/cpu/ops_portable.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/matmul.h"
#include "kernels/op_table.h"
#include "kernels/packed_matrix.h"
#include "kernels/probe_vectors.h"
#include "tests/kernels/amx_emulator.h"

namespace sluice::kernels {

inline constexpr WeightFormat kKFormats[] = {
    WeightFormat::kQ4_K, WeightFormat::kQ5_K, WeightFormat::kQ6_K};
inline constexpr WeightFormat kAllFormats[] = {
    WeightFormat::kF32,  WeightFormat::kF16,  WeightFormat::kBF16,
    WeightFormat::kQ8_0, WeightFormat::kQ4_0, WeightFormat::kQ4_1,
    WeightFormat::kQ5_0, WeightFormat::kQ5_1, WeightFormat::kQ4_K,
    WeightFormat::kQ5_K, WeightFormat::kQ6_K};

struct Level {
  Isa isa;
  PackActivationsFn pack;
  MatmulFn matmul;
};
inline constexpr Level kAllLevels[] = {
    {Isa::kPortable, PackActivationsPortable, MatmulPortable},
    {Isa::kAvx2, PackActivationsAvx2, MatmulAvx2},
    {Isa::kAvx512, PackActivationsAvx512, MatmulAvx512},
    {Isa::kAvx512Bf16, PackActivationsAvx512, MatmulAvx512Bf16},
    {Isa::kAmx, PackActivationsAvx512, MatmulAmx}};

// Whether this machine runs a level, by emulation if need be.
inline bool Runs(Isa isa) {
  return isa <= DetectIsa() || (isa == Isa::kAmx && AmxRuns());
}

struct Packed {
  std::vector<uint8_t> stored;
  AlignedBytes bytes;
  PackedMatrix matrix;
};

inline Packed MakeWeights(const OpContext& context,
                          const VectorSource::Weights& weights,
                          VectorSource& source) {
  Packed result;
  result.stored.resize(static_cast<size_t>(
      weights.rows * StoredRowBytes(weights.format, weights.k)));
  source.FillWeights(weights, result.stored.data());
  result.bytes =
      AlignedBytes(PackedBytes(weights.format, weights.rows, weights.k));
  const StoredRows part = {result.stored.data(), weights.rows};
  result.matrix = PackMatrix(context, {.format = weights.format,
                                       .k = weights.k,
                                       .parts = {&part, 1},
                                       .packed_bytes = result.bytes.data()});
  return result;
}

// Rows x [rows, k] (contiguous) times `w` by `level`, into [rows, w.n].
inline std::vector<float> Multiply(const OpContext& context, const Level& level,
                                   const float* x, int64_t rows,
                                   const PackedMatrix& w) {
  const ActivationKind kind = ActivationKindFor(w.format);
  AlignedBytes bytes(ActivationBytes(kind, rows, w.k));
  const Activations a = {
      .kind = kind, .rows = rows, .k = w.k, .bytes = bytes.data()};
  level.pack(context, {.x = {x, rows, w.k, w.k}, .out = a});
  std::vector<float> y(static_cast<size_t>(rows * w.n), -7.0f);
  level.matmul(context, {.a = a, .w = w, .y = {y.data(), rows, w.n, w.n}});
  return y;
}

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// NaN payloads are not specified.
inline bool SameBits(float a, float b) {
  return BitsOf(a) == BitsOf(b) || (a != a && b != b);
}

// How many of the first `count` values differ in their bits.
inline int64_t CountDifferent(const float* a, const float* b, int64_t count) {
  int64_t different = 0;
  for (int64_t i = 0; i < count; ++i) different += SameBits(a[i], b[i]) ? 0 : 1;
  return different;
}

}  // namespace sluice::kernels

#endif  // TESTS_KERNELS_MATMUL_CASES_H_
