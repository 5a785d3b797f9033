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

}  // namespace sluice::kernels
