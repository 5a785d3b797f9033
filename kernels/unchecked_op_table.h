#ifndef KERNELS_UNCHECKED_OP_TABLE_H_
#define KERNELS_UNCHECKED_OP_TABLE_H_

#include "kernels/op_table.h"

namespace sluice::kernels {

// The table of `isa`, whether this machine runs it or not: for tests that
// emulate what it lacks. SelectOpTable() is the way for all others.
const OpTable& UncheckedOpTable(Isa isa);

}  // namespace sluice::kernels

#endif  // KERNELS_UNCHECKED_OP_TABLE_H_
