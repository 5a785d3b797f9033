#ifndef KERNELS_REFERENCE_ATTENTION_H_
#define KERNELS_REFERENCE_ATTENTION_H_

#include "kernels/attention.h"

namespace sluice::kernels {

// One stored value, widened: dimension d of head `head` at `offset` in `block`;
// comp 0 is K, 1 is V.
struct KvPlace {
  int64_t block = 0;
  int comp = 0;
  int64_t head = 0;
  int64_t offset = 0;
  int64_t d = 0;
};
float StoredKv(const KvView& kv, const KvPlace& place);

// attention.h in f64 with a plain softmax over the stored K and V; out is
// [tokens, heads * head_dim]. args.out and args.scratch are not used.
void AttentionF64(const AttentionArgs& args, double* out);

}  // namespace sluice::kernels

#endif  // KERNELS_REFERENCE_ATTENTION_H_
