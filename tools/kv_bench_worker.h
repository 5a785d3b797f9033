#ifndef TOOLS_KV_BENCH_WORKER_H_
#define TOOLS_KV_BENCH_WORKER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvtransfer/append_digests.h"
#include "kvtransfer/shm/pool_memory.h"
#include "kvtransfer/transfer_engine.h"
#include "kvtransfer/transfer_thread.h"
#include "tools/kv_bench_channel.h"

namespace sluice::kv_bench {

// How one side cuts the model's cache; a block of all its ranks together
// holds block_bytes.
struct SideShape {
  uint32_t block_tokens = 16;
  uint32_t ranks = 1;
  std::string order = "canonical";  // or "cpu_tiles"
};

// One layout of the benchmark: what both processes build engines for.
struct Shape {
  uint64_t pool_bytes = 0;
  uint32_t layers = 1;
  uint32_t heads = 1;
  uint32_t head_dim = 128;
  SideShape source;
  SideShape target;

  uint64_t token_bytes() const {
    return uint64_t{layers} * 2 * heads * head_dim * 2;
  }
  std::string ToText() const;
  static Shape FromText(const std::string& text);
};

// Which engine: a transport ("shm", "ucx"), and where digests come from: "off";
// "append", kept since the KV was written; "offer", read again for the
// announcement.
struct EngineKind {
  std::string transport;
  std::string digests;
};

// Manifest of one side; blocks are numbered from 1, the same in every rank.
kvtransfer::LayoutManifest ManifestOf(const Shape& shape, bool is_source);
// Blocks besides the null block.
uint32_t UsableBlocks(const kvtransfer::LayoutManifest& manifest);

// A pool of one side, and where in it the tokens from position 0 on lie.
struct SideBytes {
  const std::byte* pool = nullptr;
  const std::vector<uint32_t>* blocks = nullptr;
};
// Values of tokens [0, num_tokens), over all layers, components and heads, that
// the target does not hold as the source does, whatever ranks hold them.
uint64_t CountDifferent(const Shape& shape, const SideBytes& source,
                        const SideBytes& target, uint32_t num_tokens);

// An engine with its own thread, whose control messages go over the channel.
class BenchWorker {
 public:
  struct Args {
    const Shape* shape;
    EngineKind kind;
    bool is_source;
    uint32_t index;  // of the engine in its process, the same on both sides
    const kvtransfer::PoolMemory* pool;
    Channel* channel;
  };
  // Ends the process with a message when something cannot be made.
  explicit BenchWorker(const Args& args);
  ~BenchWorker();

  kvtransfer::TransferEngine& engine() { return *engine_; }
  void OnControl(const std::string& body);
  // Digests of `blocks`, which hold the tokens from position 0 on.
  void Append(const std::vector<uint32_t>& blocks, uint32_t num_tokens);

 private:
  class Link;

  const bool is_source_;
  const kvtransfer::PoolMemory* const pool_;
  const kvtransfer::LayoutManifest manifest_;
  std::unique_ptr<Link> link_;
  std::unique_ptr<kvtransfer::AppendDigests> append_digests_;
  std::unique_ptr<kvtransfer::TransferEngine> engine_;
  std::unique_ptr<kvtransfer::TransferThread> thread_;
};

// Body of the source process: serves the channel until told to quit.
void RunSource(Channel& channel, const kvtransfer::PoolMemory& pool,
               const std::vector<EngineKind>& kinds);

// Body of a kSend frame. `layer_gap_us`: pause before each layer's offer, as a
// prefill has; 0: everything at once.
struct SendOrder {
  kvtransfer::Ticket ticket;
  std::vector<uint32_t> blocks;
  uint32_t layer_gap_us = 0;
  uint32_t num_tokens = 0;

  std::string ToBody() const;
  static SendOrder FromBody(const std::string& body);
};

[[noreturn]] void Die(const std::string& text);

}  // namespace sluice::kv_bench

#endif  // TOOLS_KV_BENCH_WORKER_H_
