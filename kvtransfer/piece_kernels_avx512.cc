#include "kvtransfer/piece_group_loops.h"

namespace sluice::kvtransfer {
namespace {

struct Words8 {
  using Reg = __m512i;
  static constexpr uint32_t kWords = 8;

  static Reg Zero() { return _mm512_setzero_si512(); }
  static Reg Load(const std::byte* at) { return _mm512_loadu_si512(at); }
  static void Store(std::byte* at, Reg x) { _mm512_storeu_si512(at, x); }
  static void Stream(std::byte* at, Reg x) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(at), x);
  }
  static Reg Broadcast(uint64_t x) {
    return _mm512_set1_epi64(static_cast<int64_t>(x));
  }
  static Reg Ramp(uint64_t first, uint64_t step) {
    return _mm512_add_epi64(
        Broadcast(first),
        _mm512_mullo_epi64(Broadcast(step),
                           _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7)));
  }
  static Reg Add(Reg x, Reg y) { return _mm512_add_epi64(x, y); }
  static Reg Mix(Reg z) {
    z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 30));
    z = _mm512_mullo_epi64(z, Broadcast(0xBF58476D1CE4E5B9u));
    z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 27));
    z = _mm512_mullo_epi64(z, Broadcast(0x94D049BB133111EBu));
    return _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
  }
  static Reg InterleaveLow(Reg x, Reg y) { return _mm512_unpacklo_epi32(x, y); }
  static Reg InterleaveHigh(Reg x, Reg y) {
    return _mm512_unpackhi_epi32(x, y);
  }
  // Even 16-bit values of each 16 bytes first.
  static Reg SortPairs(Reg x) {
    return _mm512_shuffle_epi8(
        x, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3,
                                                6, 7, 10, 11, 14, 15)));
  }
  // Modulo 2^64, which the intrinsic's signed sums are not.
  static uint64_t Sum(Reg x) {
    alignas(64) uint64_t lanes[8];
    _mm512_store_si512(lanes, x);
    uint64_t sum = 0;
    for (const uint64_t lane : lanes) sum += lane;
    return sum;
  }
};

}  // namespace

const PieceKernels kPieceKernelsAvx512 = PieceKernelsOn<Words8>();

}  // namespace sluice::kvtransfer
