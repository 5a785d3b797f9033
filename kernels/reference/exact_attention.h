#ifndef KERNELS_REFERENCE_EXACT_ATTENTION_H_
#define KERNELS_REFERENCE_EXACT_ATTENTION_H_

#include "kernels/attention.h"

namespace sluice::kernels {

// attention.h to the bit, one row and head at a time, written from CPU numerics
// section 8 without sharing anything with the paths but exp: out is [tokens,
// heads * head_dim]. args.out and args.scratch are not used.
void ExactAttention(const AttentionArgs& args, float* out);

}  // namespace sluice::kernels

#endif  // KERNELS_REFERENCE_EXACT_ATTENTION_H_
