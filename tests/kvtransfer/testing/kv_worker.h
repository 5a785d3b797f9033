#ifndef TESTS_KVTRANSFER_TESTING_KV_WORKER_H_
#define TESTS_KVTRANSFER_TESTING_KV_WORKER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvtransfer/shm/pool_memory.h"
#include "kvtransfer/transfer_engine.h"

namespace sluice::kvtransfer {

struct KvWorkerSpec {
  std::string name = "decode";
  uint64_t generation = 1;
  int block_tokens = 16;
  InnerOrder inner_order = InnerOrder::kCanonical;
  KvDtype dtype = KvDtype::kBf16;
  int layers = 2;
  int heads = 2;
  int head_dim = 8;
  uint64_t num_blocks = 32;
  uint64_t staging_bytes = 0;  // of memory behind the blocks
};

LayoutManifest MakeManifest(const KvWorkerSpec& spec);

// One rank, one key-value group, and memory for it, filled with 0xEE.
struct KvWorker {
  // In `other`, if it has memory enough, which outlives the worker.
  explicit KvWorker(const KvWorkerSpec& spec, const Region& other = {});

  GroupLayout layout() const;
  std::byte* block(uint32_t id) const;
  uint64_t blocks_bytes() const;

  // Writes the values of tokens [0, num_tokens) of sequence `seed` into
  // blocks[token / block_tokens].
  void Fill(const std::vector<uint32_t>& blocks, uint32_t num_tokens,
            uint64_t seed) const;
  // Whether tokens [skip, num_tokens) of `blocks` hold sequence `seed`.
  bool Holds(const std::vector<uint32_t>& blocks, uint32_t skip,
             uint32_t num_tokens, uint64_t seed) const;
  // Whether a block is as it was at the start.
  bool Untouched(uint32_t block) const;

  KvWorkerSpec spec;
  LayoutManifest manifest;
  std::unique_ptr<PoolMemory> memory;  // null: another's
  Region region;
};

// ids first, first + step, ...
std::vector<uint32_t> Blocks(uint32_t num_tokens, int block_tokens,
                             uint32_t first, uint32_t step = 1);

}  // namespace sluice::kvtransfer

#endif  // TESTS_KVTRANSFER_TESTING_KV_WORKER_H_
