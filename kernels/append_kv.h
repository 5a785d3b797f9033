#ifndef KERNELS_APPEND_KV_H_
#define KERNELS_APPEND_KV_H_

#include "kernels/kv_copy.h"
#include "kernels/rope.h"

namespace sluice::kernels {

// What stands between the q, k, v product and attention, a row at a time:
// rotates q and k of the row in place (rope.h), then writes its k and v to the
// cache (kv_copy.h).
//
//   rope   x is q and k side by side; zero rows: nothing is rotated
//   write  k lies inside rope.x; no slots: nothing is written
//
// Otherwise both have the same number of rows.
struct AppendKvArgs {
  RopeArgs rope;
  WriteKvArgs write;
};
using AppendKvFn = void (*)(const OpContext&, const AppendKvArgs&);

}  // namespace sluice::kernels

#endif  // KERNELS_APPEND_KV_H_
