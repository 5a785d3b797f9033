// The physical limits of this machine that the figures are held against, as
// one JSON object:
//
//   limits [--threads=N] [--quick]        (--quick: the read bandwidth alone)
//
// dram_read_gbs is a read of 2 GiB by all threads, the faster of plain loads
// and loads behind prefetches into L2 (plain_read_gbs is the former); the peaks
// are loops of independent instructions on registers (tiles: with their loads
// from L1). What the machine lacks is left out.

#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "kernels/cpu/thread_pool.h"

namespace sluice::kernels {
namespace {

constexpr int kExitUsage = 64;
constexpr size_t kReadBytes = size_t{2} << 30;
constexpr int kReadRounds = 5;
constexpr int kPeakRounds = 5;
constexpr int64_t kVectorIterations = 2'000'000;
constexpr int64_t kTileIterations = 200'000;

// The median seconds of `rounds` runs of `body` on every thread.
double MedianSeconds(ThreadPool& pool, int rounds,
                     const std::function<void(int)>& body) {
  pool.Run(body);  // pages, frequency
  std::vector<double> seconds;
  for (int i = 0; i < rounds; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    pool.Run(body);
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
            .count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

// Pages on huge pages where the kernel has them.
class Memory {
 public:
  Memory() {
    void* pages = mmap(nullptr, kReadBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SLUICE_CHECK(pages != MAP_FAILED);
    madvise(pages, kReadBytes, MADV_HUGEPAGE);
    data_ = static_cast<uint8_t*>(pages);
  }
  ~Memory() { munmap(data_, kReadBytes); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint8_t* data() const { return data_; }

 private:
  uint8_t* data_;
};

// Four sequential streams: one alone does not keep enough lines in flight.
constexpr size_t kStreams = 4;

[[gnu::target("avx512f")]] void Read512(const uint8_t* from, size_t bytes) {
  const size_t part = bytes / kStreams;
  for (size_t at = 0; at + 64 <= part; at += 64) {
    for (size_t stream = 0; stream < kStreams; ++stream) {
      asm volatile(
          "vmovdqa64 %0, %%zmm0" ::"m"(
              *reinterpret_cast<const __m512i*>(from + stream * part + at))
          : "xmm0");
    }
  }
}

[[gnu::target("avx2")]] void Read256(const uint8_t* from, size_t bytes) {
  const size_t part = bytes / kStreams;
  for (size_t at = 0; at + 32 <= part; at += 32) {
    for (size_t stream = 0; stream < kStreams; ++stream) {
      asm volatile("vmovdqa %0, %%ymm0" ::"m"(*reinterpret_cast<const __m256i*>(
          from + stream * part + at))
                   : "xmm0");
    }
  }
}

// The hardware's own prefetchers stop at 4 KiB pages and start again behind
// them; asked for this far ahead, more lines are in flight.
constexpr size_t kAheadBytes = 4096;

[[gnu::target("avx512f")]] void ReadAhead512(const uint8_t* from,
                                             size_t bytes) {
  for (size_t at = 0; at + 64 <= bytes; at += 64) {
    _mm_prefetch(from + at + kAheadBytes, _MM_HINT_T1);
    asm volatile("vmovdqa64 %0, %%zmm0" ::"m"(
                     *reinterpret_cast<const __m512i*>(from + at))
                 : "xmm0");
  }
}

[[gnu::target("avx2")]] void ReadAhead256(const uint8_t* from, size_t bytes) {
  for (size_t at = 0; at + 64 <= bytes; at += 64) {
    _mm_prefetch(from + at + kAheadBytes, _MM_HINT_T1);
    for (size_t half = 0; half < 64; half += 32) {
      asm volatile("vmovdqa %0, %%ymm0" ::"m"(
                       *reinterpret_cast<const __m256i*>(from + at + half))
                   : "xmm0");
    }
  }
}

struct ReadRates {
  double plain_gbs = 0;
  double best_gbs = 0;
};

ReadRates MeasureReads(ThreadPool& pool) {
  const Memory memory;
  const size_t share =
      kReadBytes / static_cast<size_t>(pool.num_threads()) / 4096 * 4096;
  // Each thread touches its own share first, as a model's loader does.
  pool.Run([&](int thread) {
    std::memset(memory.data() + share * static_cast<size_t>(thread), 1, share);
  });
  const auto rate = [&](void (*read)(const uint8_t*, size_t)) {
    const double seconds = MedianSeconds(pool, kReadRounds, [&](int thread) {
      read(memory.data() + share * static_cast<size_t>(thread), share);
    });
    return 1e-9 * static_cast<double>(share) * pool.num_threads() / seconds;
  };
  const bool wide = __builtin_cpu_supports("avx512f");
  ReadRates rates;
  rates.plain_gbs = rate(wide ? Read512 : Read256);
  rates.best_gbs =
      std::max(rates.plain_gbs, rate(wide ? ReadAhead512 : ReadAhead256));
  return rates;
}

// Twelve accumulators hide the latency of four cycles at three a cycle. The
// compiler keeps them in registers; the asm forbids it to drop a product.
constexpr int kChains = 12;

[[gnu::target("avx512f")]] void RunFma512(int64_t iterations) {
  __m512 sums[kChains] = {};
  const __m512 one = _mm512_set1_ps(1);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      asm volatile("vfmadd231ps %1, %1, %0" : "+v"(sums[j]) : "v"(one));
    }
  }
}

[[gnu::target("avx2,fma")]] void RunFma256(int64_t iterations) {
  __m256 sums[kChains] = {};
  const __m256 one = _mm256_set1_ps(1);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      asm volatile("vfmadd231ps %1, %1, %0" : "+x"(sums[j]) : "x"(one));
    }
  }
}

[[gnu::target("avx512f,avx512vnni")]] void RunVnni(int64_t iterations) {
  __m512i sums[kChains] = {};
  const __m512i one = _mm512_set1_epi8(1);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      asm volatile("vpdpbusd %1, %1, %0" : "+v"(sums[j]) : "v"(one));
    }
  }
}

[[gnu::target("avx512f,avx512bf16")]] void RunBf16(int64_t iterations) {
  __m512 sums[kChains] = {};
  const __m512i one = _mm512_set1_epi16(0x3f80);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      asm volatile("vdpbf16ps %1, %1, %0" : "+v"(sums[j]) : "v"(one));
    }
  }
}

// Linux wants the tiles to be asked for once per process.
bool AskForTiles() {
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileState = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileState) == 0;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Two by two tiles, as a product has them: 4 loads, 4 products.
#define SLUICE_TILE_LOOP(op)                                            \
  asm volatile(                                                         \
      "1:\n\t"                                                          \
      "tileloadd (%1,%2,1), %%tmm4\n\t"                                 \
      "tileloadd 1024(%1,%2,1), %%tmm5\n\t"                             \
      "tileloadd 2048(%1,%2,1), %%tmm6\n\t"                             \
      "tileloadd 3072(%1,%2,1), %%tmm7\n\t" op                          \
      " %%tmm6, %%tmm4, %%tmm0\n\t" op " %%tmm7, %%tmm4, %%tmm1\n\t" op \
      " %%tmm6, %%tmm5, %%tmm2\n\t" op                                  \
      " %%tmm7, %%tmm5, %%tmm3\n\t"                                     \
      "dec %0\n\t"                                                      \
      "jnz 1b"                                                          \
      : "+r"(iterations)                                                \
      : "r"(operands), "r"(stride)                                      \
      : "cc", "memory")

void RunTiles(int64_t iterations, bool bf16) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  alignas(64) const uint8_t operands[4096] = {};
  const int64_t stride = 64;
  asm volatile("ldtilecfg %0" ::"m"(config));
  if (bf16) {
    SLUICE_TILE_LOOP("tdpbf16ps");
  } else {
    SLUICE_TILE_LOOP("tdpbssd");
  }
  asm volatile("tilerelease");
}

#undef SLUICE_TILE_LOOP

struct Peak {
  const char* name;
  bool runs_here;
  double ops;  // of one iteration of one thread; a product and a sum are 2
  int64_t iterations;
  std::function<void(int64_t)> run;
};

// The flags of CPUID that the compiler's own list of features lacks.
struct TileFeatures {
  bool bf16 = false;
  bool int8 = false;
};
TileFeatures DetectTiles() {
  uint32_t eax = 7;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  const bool tiles = (edx >> 24 & 1) != 0 && AskForTiles();
  return {.bf16 = tiles && (edx >> 22 & 1) != 0,
          .int8 = tiles && (edx >> 25 & 1) != 0};
}

std::vector<Peak> Peaks() {
  const bool wide = __builtin_cpu_supports("avx512f") != 0;
  const bool narrow = !wide && __builtin_cpu_supports("fma") != 0;
  const TileFeatures tiles = DetectTiles();
  constexpr double kTileOps = 4.0 * 2 * 16 * 16;  // times k
  return {
      {"fp32_fma_gflops", wide, kChains * 32, kVectorIterations, RunFma512},
      {"fp32_fma_gflops", narrow, kChains * 16, kVectorIterations, RunFma256},
      {"vpdpbusd_gops", __builtin_cpu_supports("avx512vnni") != 0,
       kChains * 128, kVectorIterations, RunVnni},
      {"vdpbf16ps_gflops", __builtin_cpu_supports("avx512bf16") != 0,
       kChains * 64, kVectorIterations, RunBf16},
      {"tdpbf16ps_gflops", tiles.bf16, kTileOps * 32, kTileIterations,
       [](int64_t n) { RunTiles(n, /*bf16=*/true); }},
      {"tdpbssd_gops", tiles.int8, kTileOps * 64, kTileIterations,
       [](int64_t n) { RunTiles(n, /*bf16=*/false); }},
  };
}

int Main(int argc, char** argv) {
  int threads = UsableCpus();
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    absl::string_view arg = argv[i];
    if (arg == "--quick") {
      quick = true;
    } else if (!absl::ConsumePrefix(&arg, "--threads=") ||
               !absl::SimpleAtoi(arg, &threads) || threads < 1 ||
               threads > 1024) {
      std::fprintf(stderr, "usage: limits [--threads=1..1024] [--quick]\n");
      return kExitUsage;
    }
  }
  if (!__builtin_cpu_supports("avx2")) {
    std::fprintf(stderr, "limits: this needs AVX2\n");
    return 1;
  }
  ThreadPool pool(threads);
  const ReadRates reads = MeasureReads(pool);
  std::string json = absl::StrFormat(
      "{\"threads\": %d, \"dram_read_gbs\": %.2f, \"plain_read_gbs\": %.2f",
      threads, reads.best_gbs, reads.plain_gbs);
  for (const Peak& peak : Peaks()) {
    if (quick || !peak.runs_here) continue;
    const double seconds = MedianSeconds(
        pool, kPeakRounds, [&](int) { peak.run(peak.iterations); });
    absl::StrAppendFormat(&json, ", \"%s\": %.1f", peak.name,
                          1e-9 * peak.ops *
                              static_cast<double>(peak.iterations) * threads /
                              seconds);
  }
  std::puts(absl::StrCat(json, "}").c_str());
  return 0;
}

}  // namespace
}  // namespace sluice::kernels

int main(int argc, char** argv) { return sluice::kernels::Main(argc, argv); }
