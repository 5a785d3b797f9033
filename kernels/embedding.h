#ifndef KERNELS_EMBEDDING_H_
#define KERNELS_EMBEDDING_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/packed_matrix.h"
#include "kernels/tensor_view.h"

namespace sluice::kernels {

// y[t, :] = row ids[t] of the table, decoded exactly.
//
//   ids    [tokens], each in [0, table.n)
//   table  [vocab, hidden]
//   y      [tokens, hidden]
struct EmbeddingArgs {
  absl::Span<const int32_t> ids;
  PackedMatrix table;
  MatrixView<float> y;
};
using EmbeddingFn = void (*)(const OpContext&, const EmbeddingArgs&);

}  // namespace sluice::kernels

#endif  // KERNELS_EMBEDDING_H_
