// Attention by level: decode in GB/s of K and V read, beside the plain read
// bandwidth of the same run, and prefill in Gflop/s.
//   heads, kv_heads, head_dim: SmolLM2-135M 9, 3, 64; r1b 32, 8, 64; 8B 32, 8,
//   128

#include <immintrin.h>

#include <atomic>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/kernels/op_levels.h"
#include "tests/kernels/paged_cache.h"

namespace sluice::kernels {
namespace {

ThreadPool& Pool() {
  static ThreadPool pool(UsableCpus());
  return pool;
}

void ReadMemory(benchmark::State& state) {
  const AlignedBytes memory(int64_t{256} << 20);
  std::atomic<uint64_t> sink{0};
  for (auto _ : state) {
    Pool().Run([&](int thread) {
      const WorkRange range =
          PartOf(memory.size(), 256, thread, Pool().num_threads());
      uint64_t sum = 0;
      for (int64_t i = range.begin; i < range.end; i += 8) {
        uint64_t word;
        std::memcpy(&word, memory.data() + i, 8);
        sum |= word;
      }
      sink += sum;
    });
  }
  state.SetBytesProcessed(state.iterations() * memory.size());
}

// One row a sequence, over as many "layers" (caches) as leave the caches cold.
void Decode(benchmark::State& state, const OpTable& ops, CacheShape shape,
            int64_t seqs, int64_t context) {
  const int64_t kv_bytes =
      2 * shape.kv_heads * shape.head_dim * 2 * context * seqs;
  const int64_t layers = std::max<int64_t>(1, (int64_t{128} << 20) / kv_bytes);
  std::vector<SequenceRows> rows;
  std::vector<StepPart> parts;
  for (int64_t s = 0; s < seqs; ++s) {
    rows.push_back(MakeRows(shape, context, static_cast<uint32_t>(s)));
    parts.push_back({s, context - 1, context});
  }
  std::vector<std::unique_ptr<PagedCache>> caches;
  std::vector<std::unique_ptr<AttentionStep>> steps;
  for (int64_t l = 0; l < layers; ++l) {
    caches.push_back(std::make_unique<PagedCache>(shape, seqs, context, l));
    for (int64_t s = 0; s < seqs; ++s) {
      caches.back()->Write({&Pool()}, ops, s, rows[s], 0, context);
    }
    steps.push_back(
        std::make_unique<AttentionStep>(*caches.back(), rows, parts));
    steps.back()->Run({&Pool()}, Pool().num_threads(), ops);
  }
  int64_t next = 0;
  for (auto _ : state) {
    ops.attention({&Pool()}, steps[next++ % layers]->Args());
  }
  state.SetBytesProcessed(state.iterations() * kv_bytes);
}

void Prefill(benchmark::State& state, const OpTable& ops, CacheShape shape,
             int64_t tokens) {
  const std::vector<SequenceRows> rows = {MakeRows(shape, tokens, 1)};
  PagedCache cache(shape, 1, tokens, 1);
  cache.Write({&Pool()}, ops, 0, rows[0], 0, tokens);
  AttentionStep step(cache, rows, {{0, 0, tokens}});
  step.Run({&Pool()}, Pool().num_threads(), ops);
  for (auto _ : state) ops.attention({&Pool()}, step.Args());
  const double flops = 4.0 * static_cast<double>(shape.heads * shape.head_dim) *
                       static_cast<double>(tokens * (tokens + 1) / 2);
  state.counters["Gflop/s"] =
      benchmark::Counter(flops * 1e-9 * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate);
}

const bool kRegistered = [] {
  struct Model {
    const char* name;
    CacheShape shape;
  };
  const Model models[] = {
      {"135M", {.heads = 9, .kv_heads = 3, .head_dim = 64}},
      {"r1b", {.heads = 32, .kv_heads = 8, .head_dim = 64}},
      {"8B", {.heads = 32, .kv_heads = 8, .head_dim = 128}},
      {"MHA", {.heads = 12, .kv_heads = 12, .head_dim = 64}},
  };
  benchmark::RegisterBenchmark("ReadMemory", ReadMemory)->UseRealTime();
  for (const OpTable* ops : Levels()) {
    if (ops->isa == Isa::kPortable) continue;
    for (const Model& model : models) {
      const std::string name =
          std::string(ops->name) + "/" + std::string(model.name);
      for (const int64_t context : {512, 8192}) {
        benchmark::RegisterBenchmark(
            (name + "/decode/" + std::to_string(context)).c_str(),
            [=](benchmark::State& state) {
              Decode(state, *ops, model.shape, 1, context);
            })
            ->UseRealTime();
      }
      benchmark::RegisterBenchmark((name + "/decode/32x500").c_str(),
                                   [=](benchmark::State& state) {
                                     Decode(state, *ops, model.shape, 32, 500);
                                   })
          ->UseRealTime();
      benchmark::RegisterBenchmark((name + "/prefill/512").c_str(),
                                   [=](benchmark::State& state) {
                                     Prefill(state, *ops, model.shape, 512);
                                   })
          ->UseRealTime();
    }
  }
  return true;
}();

}  // namespace
}  // namespace sluice::kernels
