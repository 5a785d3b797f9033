#include "kernels/reference/row_ops.h"

#include <cmath>
#include <vector>

namespace sluice::kernels {

void RmsNormF64(const RmsNormArgs& args, double* y) {
  const int64_t n = args.x.cols;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    const float* x = args.x.Row(t);
    double sum = 0;
    for (int64_t d = 0; d < n; ++d) sum += double{x[d]} * x[d];
    const double r =
        1 / std::sqrt(sum / static_cast<double>(n) + double{args.epsilon});
    for (int64_t d = 0; d < n; ++d) y[t * n + d] = x[d] * r * args.weight[d];
  }
}

void SiluMulF64(const SiluMulArgs& args, double* y) {
  const int64_t n = args.y.cols;
  for (int64_t t = 0; t < args.y.rows; ++t) {
    for (int64_t d = 0; d < n; ++d) {
      const double gate = args.gate.Row(t)[d];
      y[t * n + d] = gate / (1 + std::exp(-gate)) * args.up.Row(t)[d];
    }
  }
}

void RopeF64(const RopeArgs& args, const RopeParams& params, double* y) {
  const std::vector<double> f = RopeTableStorage::Frequencies(params);
  const int64_t half = params.rot / 2;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const float* x = args.x.Row(t) + h * args.head_dim;
      double* out = y + (t * args.heads + h) * args.head_dim;
      for (int64_t d = 0; d < args.head_dim; ++d) out[d] = x[d];
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(args.positions[t]) * f[i];
        const double c = std::cos(angle) * params.attention_factor;
        const double s = std::sin(angle) * params.attention_factor;
        const bool interleaved = args.pairs == RopePairs::kInterleaved;
        const int64_t a = interleaved ? 2 * i : i;
        const int64_t b = interleaved ? 2 * i + 1 : i + half;
        out[a] = x[a] * c - x[b] * s;
        out[b] = x[a] * s + x[b] * c;
      }
    }
  }
}

}  // namespace sluice::kernels
