#include "kvtransfer/piece_group_loops.h"

namespace sluice::kvtransfer {
namespace {

struct Words4 {
  using Reg = __m256i;
  static constexpr uint32_t kWords = 4;

  static Reg Zero() { return _mm256_setzero_si256(); }
  static Reg Load(const std::byte* at) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  }
  static void Store(std::byte* at, Reg x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x);
  }
  static void Stream(std::byte* at, Reg x) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(at), x);
  }
  static Reg Broadcast(uint64_t x) {
    return _mm256_set1_epi64x(static_cast<int64_t>(x));
  }
  static Reg Ramp(uint64_t first, uint64_t step) {
    return _mm256_setr_epi64x(static_cast<int64_t>(first),
                              static_cast<int64_t>(first + step),
                              static_cast<int64_t>(first + 2 * step),
                              static_cast<int64_t>(first + 3 * step));
  }
  static Reg Add(Reg x, Reg y) { return _mm256_add_epi64(x, y); }
  // There is no 64-bit product: three 32-bit ones make it.
  static Reg Product(Reg x, uint64_t factor) {
    const Reg y = Broadcast(factor);
    const Reg y_high = Broadcast(factor >> 32);
    const Reg cross =
        _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(x, 32), y),
                         _mm256_mul_epu32(x, y_high));
    return _mm256_add_epi64(_mm256_mul_epu32(x, y),
                            _mm256_slli_epi64(cross, 32));
  }
  static Reg Mix(Reg z) {
    z = Product(_mm256_xor_si256(z, _mm256_srli_epi64(z, 30)),
                0xBF58476D1CE4E5B9u);
    z = Product(_mm256_xor_si256(z, _mm256_srli_epi64(z, 27)),
                0x94D049BB133111EBu);
    return _mm256_xor_si256(z, _mm256_srli_epi64(z, 31));
  }
  static Reg InterleaveLow(Reg x, Reg y) { return _mm256_unpacklo_epi32(x, y); }
  static Reg InterleaveHigh(Reg x, Reg y) {
    return _mm256_unpackhi_epi32(x, y);
  }
  // Even 16-bit values of each 16 bytes first.
  static Reg SortPairs(Reg x) {
    return _mm256_shuffle_epi8(
        x, _mm256_broadcastsi128_si256(_mm_setr_epi8(
               0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15)));
  }
  static uint64_t Sum(Reg x) {
    uint64_t lanes[4];
    Store(reinterpret_cast<std::byte*>(lanes), x);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
  }
};

}  // namespace

const PieceKernels kPieceKernelsAvx2 = PieceKernelsOn<Words4>();

}  // namespace sluice::kvtransfer
