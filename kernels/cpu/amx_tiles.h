#ifndef KERNELS_CPU_AMX_TILES_H_
#define KERNELS_CPU_AMX_TILES_H_

#include <cstdint>

// The tile instructions of AMX as asm with a memory clobber: in which order
// they stand among loads, stores and arithmetic is what makes them fast, and
// GCC 12's intrinsics neither keep it nor name the memory they touch. Of
// internal linkage, as code_lines_avx512.h. A thread's tiles are its own;
// between two TileScopes it has none.
namespace sluice::kernels {
namespace {

#define SLUICE_TILE_INLINE __attribute__((always_inline)) inline

inline constexpr int kTileRows = 16;
inline constexpr int kTileRowBytes = 64;

// What ldtilecfg reads (Intel SDM volume 1, table 18-2): palette 1 has eight
// tiles of up to 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 3 are results [height][16] of 32 bits, 4 and 5 left operands
// [height][k_bytes], 6 and 7 right operands [k_bytes / 4][16][4 bytes].
inline TileConfig ProductTiles(int height, int k_bytes) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    const bool left = tile == 4 || tile == 5;
    config.rows[tile] = static_cast<uint8_t>(tile < 6 ? height : k_bytes / 4);
    config.row_bytes[tile] =
        static_cast<uint16_t>(left ? k_bytes : kTileRowBytes);
  }
  return config;
}

// Gives the tiles back at its end: the system then saves none when it
// switches threads.
class TileScope {
 public:
  explicit TileScope(const TileConfig& config) { Configure(config); }
  ~TileScope() { asm volatile("tilerelease" ::: "memory"); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;

  // Zeroes every tile.
  void Configure(const TileConfig& config) {
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
};

template <int kTile>
SLUICE_TILE_INLINE void ZeroTile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile) : "memory");
}
template <int kTile>
SLUICE_TILE_INLINE void LoadTile(const void* from, int64_t stride_bytes) {
  asm volatile("tileloadd (%0,%1,1),%%tmm%c2" ::"r"(from), "r"(stride_bytes),
               "i"(kTile)
               : "memory");
}
// Does not fill L1: for what is read once per pass.
template <int kTile>
SLUICE_TILE_INLINE void StreamTile(const void* from, int64_t stride_bytes) {
  asm volatile("tileloaddt1 (%0,%1,1),%%tmm%c2" ::"r"(from), "r"(stride_bytes),
               "i"(kTile)
               : "memory");
}
template <int kTile>
SLUICE_TILE_INLINE void StoreTileTo(void* to, int64_t stride_bytes) {
  asm volatile("tilestored %%tmm%c2,(%0,%1,1)" ::"r"(to), "r"(stride_bytes),
               "i"(kTile)
               : "memory");
}
// c += a * b: sums of four products of s8.
template <int kC, int kA, int kB>
SLUICE_TILE_INLINE void MultiplyInt8() {
  asm volatile("tdpbssd %%tmm%c2,%%tmm%c1,%%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB)
               : "memory");
}
// c += a * b of bf16: a step of order t32 (numerics section 5) when a row of a
// has 64 bytes.
template <int kC, int kA, int kB>
SLUICE_TILE_INLINE void MultiplyBf16() {
  asm volatile("tdpbf16ps %%tmm%c2,%%tmm%c1,%%tmm%c0" ::"i"(kC), "i"(kA),
               "i"(kB)
               : "memory");
}

// Groups or super-blocks whose weights are at hand.
struct SlabRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// Prefetches into L2 what is read next, a part per call.
class Ahead {
 public:
  // `calls` of Fetch() come, or more.
  Ahead(const uint8_t* from, int64_t bytes, int64_t calls)
      : from_(from), left_(bytes / 64), step_(left_ / calls + 1) {}

  SLUICE_TILE_INLINE void Fetch() {
    for (int64_t i = 0; i < step_ && left_ > 0; ++i, --left_, from_ += 64) {
      __builtin_prefetch(from_, 0, 2);
    }
  }

 private:
  const uint8_t* from_;
  int64_t left_;  // lines
  const int64_t step_;
};

#undef SLUICE_TILE_INLINE

}  // namespace
}  // namespace sluice::kernels

#endif  // KERNELS_CPU_AMX_TILES_H_
