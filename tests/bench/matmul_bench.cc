// Speed of the products by level and format, beside the plain read bandwidth
// of the same run: figures mean something only as ratios of one run.
//   decode   1, 8, 32 rows, weights streamed from memory     GB/s of weights
//   prefill  512 rows                                        Gop/s
// Both over many matrices of 2048 x 8192 (k x n).

#include <immintrin.h>

#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "kernels/aligned_bytes.h"
#include "tests/kernels/matmul_cases.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kK = 2048;
constexpr int64_t kN = 8192;
// Together beyond any cache, so that decode reads memory.
constexpr int64_t kWeightBytes = 512 << 20;

ThreadPool& Pool() {
  static ThreadPool pool(UsableCpus());
  return pool;
}

// One allocation that every benchmark packs its matrices into.
const AlignedBytes& Memory() {
  static const AlignedBytes memory(kWeightBytes);
  return memory;
}

std::vector<PackedMatrix> MakeMatrices(WeightFormat format) {
  const int64_t bytes = PackedBytes(format, kN, kK);
  VectorSource source(1);
  std::vector<uint8_t> stored(
      static_cast<size_t>(kN * StoredRowBytes(format, kK)));
  source.FillWeights({.format = format, .rows = kN, .k = kK}, stored.data());
  const StoredRows part = {stored.data(), kN};
  std::vector<PackedMatrix> matrices;
  for (int64_t at = 0; at + bytes <= kWeightBytes; at += bytes) {
    matrices.push_back(
        PackMatrix({&Pool()}, {.format = format,
                               .k = kK,
                               .parts = {&part, 1},
                               .packed_bytes = Memory().data() + at}));
  }
  return matrices;
}

void ReadMemory(benchmark::State& state) {
  const AlignedBytes& memory = Memory();
  std::atomic<uint64_t> sink{0};
  for (auto _ : state) {
    Pool().Run([&](int thread) {
      const WorkRange range =
          PartOf(memory.size(), 256, thread, Pool().num_threads());
      __m128i x[4] = {};
      for (int64_t i = range.begin; i < range.end; i += 64) {
        const __m128i* line =
            reinterpret_cast<const __m128i*>(memory.data() + i);
        for (int j = 0; j < 4; ++j) {
          x[j] = _mm_or_si128(x[j], _mm_load_si128(line + j));
        }
      }
      x[0] = _mm_or_si128(_mm_or_si128(x[0], x[1]), _mm_or_si128(x[2], x[3]));
      sink += static_cast<uint64_t>(_mm_cvtsi128_si64(x[0]));
    });
  }
  benchmark::DoNotOptimize(sink.load());
  state.SetBytesProcessed(state.iterations() * memory.size());
}

struct Shape {
  Level level;
  WeightFormat format;
  int64_t rows;
};

void Product(benchmark::State& state, const Shape& shape) {
  const std::vector<PackedMatrix> matrices = MakeMatrices(shape.format);
  const ActivationKind kind = ActivationKindFor(shape.format);
  VectorSource source(2);
  std::vector<float> x(static_cast<size_t>(shape.rows * kK));
  source.FillActivations(VectorKind::kUnit, absl::MakeSpan(x));
  AlignedBytes bytes(ActivationBytes(kind, shape.rows, kK));
  const Activations a = {
      .kind = kind, .rows = shape.rows, .k = kK, .bytes = bytes.data()};
  std::vector<float> y(static_cast<size_t>(shape.rows * kN));
  shape.level.pack({&Pool()}, {.x = {x.data(), shape.rows, kK, kK}, .out = a});
  size_t next = 0;
  for (auto _ : state) {
    const PackedMatrix& w = matrices[next++ % matrices.size()];
    shape.level.matmul({&Pool()},
                       {.a = a, .w = w, .y = {y.data(), shape.rows, kN, kN}});
    benchmark::DoNotOptimize(y.data());
  }
  state.SetBytesProcessed(state.iterations() *
                          PackedBytes(shape.format, kN, kK));
  state.counters["Gop/s"] =
      benchmark::Counter(2e-9 * static_cast<double>(shape.rows * kK * kN),
                         benchmark::Counter::kIsIterationInvariantRate);
}

void PackRows(benchmark::State& state, const Level& level,
              ActivationKind kind) {
  constexpr int64_t kRows = 512;
  VectorSource source(2);
  std::vector<float> x(kRows * kK);
  source.FillActivations(VectorKind::kUnit, absl::MakeSpan(x));
  AlignedBytes bytes(ActivationBytes(kind, kRows, kK));
  const Activations a = {
      .kind = kind, .rows = kRows, .k = kK, .bytes = bytes.data()};
  for (auto _ : state) {
    level.pack({&Pool()}, {.x = {x.data(), kRows, kK, kK}, .out = a});
  }
  state.SetBytesProcessed(state.iterations() * kRows * kK * 4);
}

void RegisterAll() {
  benchmark::RegisterBenchmark("read", ReadMemory)->UseRealTime();
  for (const Level& level : kAllLevels) {
    if (level.isa > DetectIsa() || level.isa == Isa::kPortable) continue;
    const std::string isa(Name(level.isa));
    benchmark::RegisterBenchmark(("pack_int8/" + isa).c_str(),
                                 [level](benchmark::State& state) {
                                   PackRows(state, level,
                                            ActivationKind::kInt8Group32);
                                 })
        ->UseRealTime();
    for (WeightFormat format : kAllFormats) {
      for (int64_t rows : {1, 8, 32, 512}) {
        const std::string name =
            absl::StrCat(Name(format), "/", isa, "/rows:", rows);
        const Shape shape = {level, format, rows};
        benchmark::RegisterBenchmark(
            name.c_str(),
            [shape](benchmark::State& state) { Product(state, shape); })
            ->UseRealTime();
      }
    }
  }
}

}  // namespace
}  // namespace sluice::kernels

int main(int argc, char** argv) {
  sluice::kernels::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
