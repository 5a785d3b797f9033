#include "kernels/reference/matmul.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/activation_layout.h"

namespace sluice::kernels {

double ActivationAt(const Activations& a, int64_t row, int64_t k) {
  const ActivationBlock block = BlockAt(a, row / kBlockRows);
  const int64_t at = k / kGroupElements * block.height + row % kBlockRows;
  const int64_t i = k % kGroupElements;
  switch (a.kind) {
    case ActivationKind::kInt8Group32:
    case ActivationKind::kInt8Group256:
      return double{block.scale[at]} * block.codes[at * kGroupElements + i];
    case ActivationKind::kBF16:
      return block.values[at * kGroupElements + i % 2 * 16 + i / 2];
    case ActivationKind::kF32:
      return block.values[at * kGroupElements + i];
  }
  return 0;
}

void MatmulF64(const MatmulF64Args& args) {
  std::vector<float> w(static_cast<size_t>(args.w.k));
  for (int64_t j = 0; j < args.w.n; ++j) {
    DecodeRow(args.w, j, w.data());
    for (int64_t r = 0; r < args.a.rows; ++r) {
      double sum = 0;
      double absolute = 0;
      for (int64_t k = 0; k < args.w.k; ++k) {
        const double term =
            ActivationAt(args.a, r, k) * w[static_cast<size_t>(k)];
        sum += term;
        absolute += std::fabs(term);
      }
      args.y[r * args.w.n + j] = sum;
      args.absolute[r * args.w.n + j] = absolute;
    }
  }
}

void GatedMatmulF64(const GatedMatmulF64Args& args) {
  const int64_t n = args.w.n;
  std::vector<double> product(static_cast<size_t>(args.a.rows * n));
  std::vector<double> absolute(product.size());
  MatmulF64({.a = args.a,
             .w = args.w,
             .y = product.data(),
             .absolute = absolute.data()});
  for (int64_t r = 0; r < args.a.rows; ++r) {
    for (int64_t c = 0; c < n / 2; ++c) {
      const int64_t gate_column =
          c / kPanelColumns * 2 * kPanelColumns + c % kPanelColumns;
      const int64_t up_column = gate_column + kPanelColumns;
      const bool biased = args.bias != nullptr;
      const double gate =
          product[r * n + gate_column] + (biased ? args.bias[gate_column] : 0);
      const double up =
          product[r * n + up_column] + (biased ? args.bias[up_column] : 0);
      const double silu = gate / (1 + std::exp(-gate));
      args.y[r * n / 2 + c] = silu * up;
      // The slope of SiLU is at most 1.1.
      args.bound[r * n / 2 + c] =
          1.1e-5 * absolute[r * n + gate_column] * std::fabs(up) +
          1e-5 * absolute[r * n + up_column] * std::fabs(silu) +
          1e-6 * std::fabs(silu * up) + 1e-9;
    }
  }
}

}  // namespace sluice::kernels
