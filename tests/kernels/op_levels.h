#ifndef TESTS_KERNELS_OP_LEVELS_H_
#define TESTS_KERNELS_OP_LEVELS_H_

#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/op_table.h"
#include "kernels/unchecked_op_table.h"
#include "tests/kernels/amx_emulator.h"

namespace sluice::kernels {

// The op tables this machine runs, portable first; amx also by emulation. What
// it lacks is said once.
inline const std::vector<const OpTable*>& Levels() {
  static const std::vector<const OpTable*>* const levels = [] {
    auto* result = new std::vector<const OpTable*>;
    for (const Isa isa : kAllIsas) {
      const auto table = SelectOpTable(isa);
      if (table.ok()) {
        result->push_back(*table);
      } else if (isa == Isa::kAmx && AmxIsEmulated()) {
        std::printf("[          ] level amx (emulated)\n");
        result->push_back(&UncheckedOpTable(isa));
      } else {
        std::printf("[ SKIPPED  ] level %s: %s\n",
                    std::string(Name(isa)).c_str(),
                    table.status().ToString().c_str());
      }
    }
    return result;
  }();
  return *levels;
}

inline bool SameBytes(const std::vector<float>& a,
                      const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() ||
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace sluice::kernels

#endif  // TESTS_KERNELS_OP_LEVELS_H_
