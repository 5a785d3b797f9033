#ifndef TOOLS_KV_BENCH_FLOOR_H_
#define TOOLS_KV_BENCH_FLOOR_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace sluice::kv_bench {

// One block of a run: offsets in the source's and the target's pool.
using Blocks = std::vector<std::pair<uint64_t, uint64_t>>;

// Scattered blocks from one mapped pool to another, by the simplest loop there
// is for each way: what a transfer is held against.
struct FloorArgs {
  const std::byte* from = nullptr;  // the source's pool, mapped here
  std::byte* to = nullptr;
  const Blocks* blocks = nullptr;
  uint64_t block_bytes = 0;  // multiple of 128
  pid_t source = 0;          // for cma
  uint64_t source_base = 0;  // of the pool, in the source
};

// The ways of this machine, "nt" first: copy with non-temporal stores;
// "memcpy"; "cma": process_vm_readv, 512 blocks a call.
std::vector<std::string> FloorWays();
// False: this machine does not allow it.
bool RunFloor(const std::string& way, const FloorArgs& args);

}  // namespace sluice::kv_bench

#endif  // TOOLS_KV_BENCH_FLOOR_H_
