#ifndef KVTRANSFER_PIECE_LOOPS_H_
#define KVTRANSFER_PIECE_LOOPS_H_

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvtransfer/piece_kernels.h"

// Included by one file per instruction set, each compiled for it: everything
// here has internal linkage, so that no two versions are taken for one.
namespace sluice::kvtransfer {
namespace {

constexpr uint64_t kLineBytes = 64;
constexpr uint64_t kPageBytes = 4096;

// Of a line pair of a key tile: the token that lane `lane` of interleaved
// register `i` holds a word of.
template <class V>
uint32_t TokenOfLane(uint32_t i, uint32_t lane) {
  const uint32_t tokens_per_reg = V::kWords * 2;
  return i / 2 * tokens_per_reg + lane / 2 * 4 + i % 2 * 2 + lane % 2;
}

enum class What { kCopy, kDigest, kBoth };

// One piece on its way. V is a vector of V::kWords words.
template <class V, What what>
class PieceLoop {
 public:
  using Reg = typename V::Reg;
  static constexpr bool kStores = what != What::kDigest;
  static constexpr uint64_t kBytes = V::kWords * 8;
  static constexpr uint32_t kRegsPerLine = kLineBytes / kBytes;

  explicit PieceLoop(const PieceArgs& args)
      : from_(args.from),
        to_(args.to),
        ahead_(std::min(kPageBytes, args.size_bytes) / kLineBytes * kLineBytes),
        end_(args.from + args.size_bytes),
        wrap_(reinterpret_cast<uintptr_t>(args.next) -
              reinterpret_cast<uintptr_t>(end_)),
        prefetches_(args.next != nullptr || args.size_bytes > kPageBytes),
        sums_(V::Zero()) {
    // For their page walks.
    for (const std::byte* later : {args.later_from, args.later_to}) {
      if (later != nullptr) Touch(Address(later));
    }
  }

  uint64_t Run(const PieceArgs& args) {
    for (const PieceRun& run : args.runs) {
      const uint64_t key = run.key + args.token * run.words * kDigestStep;
      switch (run.order) {
        case RunOrder::kRows:
          Rows(run, key);
          break;
        case RunOrder::kKeyTiles:
          Tiles<true>(run, key);
          break;
        case RunOrder::kValueTiles:
          Tiles<false>(run, key);
          break;
      }
    }
    return scalar_sum_ + V::Sum(sums_);
  }

  // Moves the next `size` bytes without a digest.
  void Pass(uint64_t size) {
    if (!kStores) {
      Advance(size);
      return;
    }
    Align();
    while (size >= 2 * kLineBytes) {
      Prefetch(2);
      for (uint64_t at = 0; at < 2 * kLineBytes; at += kBytes) {
        Store(at, V::Load(from_ + at));
      }
      Advance(2 * kLineBytes);
      size -= 2 * kLineBytes;
    }
    std::memcpy(to_, from_, size);
    Advance(size);
  }

 private:
  void Advance(uint64_t size) {
    from_ += size;
    if (kStores) to_ += size;
  }

  // Non-temporal stores need it; a run may end anywhere.
  void Align() { aligned_ = reinterpret_cast<uintptr_t>(to_) % kBytes == 0; }

  static uintptr_t Address(const std::byte* at) {
    return reinterpret_cast<uintptr_t>(at);
  }
  // Past the caches, with and without a digest: the second level is measured to
  // be worse for all but blocks of 16 KiB. Inlined by force: GCC takes a
  // function that only prefetches for one without effects, and drops its calls.
  [[gnu::always_inline]] static void Touch(uintptr_t at) {
    constexpr int kPastCaches = 0;
    __builtin_prefetch(reinterpret_cast<const char*>(at), 0, kPastCaches);
  }

  // Lines of the place `ahead_` bytes on, which may lie in the next piece.
  [[gnu::always_inline]] void Prefetch(uint32_t lines) {
    if (!prefetches_) return;
    uintptr_t at = Address(from_) + ahead_;
    if (at >= Address(end_)) at += wrap_;
    for (uint32_t i = 0; i < lines; ++i) Touch(at + i * kLineBytes);
  }

  void Store(uint64_t at, Reg words) {
    if (!kStores) return;
    if (aligned_) {
      V::Stream(to_ + at, words);
    } else {
      V::Store(to_ + at, words);
    }
  }

  Reg Take(uint64_t at) {
    const Reg words = V::Load(from_ + at);
    Store(at, words);
    return words;
  }

  void AddWord(uint64_t key) {
    uint64_t word;
    std::memcpy(&word, from_, 8);
    if (kStores) std::memcpy(to_, &word, 8);
    scalar_sum_ += MixWord(word + key);
    Advance(8);
  }

  void Rows(const PieceRun& run, uint64_t key) {
    const uint64_t words = uint64_t{run.tokens} * run.words;
    constexpr uint64_t kStepWords = 2 * kLineBytes / 8;
    Reg keys = V::Ramp(key, kDigestStep);
    const Reg step = V::Broadcast(V::kWords * kDigestStep);
    Reg sums = sums_;
    uint64_t done = 0;
    Align();
    for (; done + kStepWords <= words; done += kStepWords) {
      Prefetch(2);
      for (uint64_t at = 0; at < 2 * kLineBytes; at += kBytes) {
        sums = V::Add(sums, V::Mix(V::Add(Take(at), keys)));
        keys = V::Add(keys, step);
      }
      Advance(2 * kLineBytes);
    }
    sums_ = sums;
    for (; done < words; ++done) AddWord(key + done * kDigestStep);
    Pass(run.size_bytes - words * 8);
  }

  template <bool kIsKey>
  void Tiles(const PieceRun& run, uint64_t key) {
    const uint64_t tile_bytes = uint64_t{run.words} * 8 * kTileTokens;
    const uint64_t tile_step = uint64_t{run.words} * kTileTokens * kDigestStep;
    uint64_t left = run.size_bytes;
    Align();
    for (uint32_t token = 0; token < run.tokens; token += kTileTokens) {
      const uint32_t valid = std::min(kTileTokens, run.tokens - token);
      if (kIsKey) {
        KeyTile(run.words, valid, key);
      } else {
        ValueTile(run.words, valid, key);
      }
      key += tile_step;
      left -= tile_bytes;
    }
    Pass(left);
  }

  // A word of a token is two neighbours of its column: word w of 16 tokens is
  // the 32-bit values of lines 2w (low halves) and 2w + 1.
  void KeyTile(uint32_t words, uint32_t valid, uint64_t key) {
    // Register h of a line holds tokens from h * kBytes / 4 on; interleaving
    // takes two tokens of every four.
    Reg keys[2 * kRegsPerLine];
    Reg sums[2 * kRegsPerLine];
    uint64_t lanes[V::kWords];
    for (uint32_t i = 0; i < 2 * kRegsPerLine; ++i) {
      for (uint32_t lane = 0; lane < V::kWords; ++lane) {
        lanes[lane] =
            key + uint64_t{TokenOfLane<V>(i, lane)} * words * kDigestStep;
      }
      keys[i] = V::Load(reinterpret_cast<const std::byte*>(lanes));
      sums[i] = V::Zero();
    }
    const Reg step = V::Broadcast(kDigestStep);
    for (uint32_t w = 0; w < words; ++w) {
      Prefetch(2);
      for (uint32_t h = 0; h < kRegsPerLine; ++h) {
        const Reg low = Take(h * kBytes);
        const Reg high = Take(kLineBytes + h * kBytes);
        Reg& first = sums[2 * h];
        Reg& second = sums[2 * h + 1];
        first = V::Add(
            first, V::Mix(V::Add(V::InterleaveLow(low, high), keys[2 * h])));
        second = V::Add(second, V::Mix(V::Add(V::InterleaveHigh(low, high),
                                              keys[2 * h + 1])));
        keys[2 * h] = V::Add(keys[2 * h], step);
        keys[2 * h + 1] = V::Add(keys[2 * h + 1], step);
      }
      Advance(2 * kLineBytes);
    }
    for (uint32_t i = 0; i < 2 * kRegsPerLine; ++i) {
      if (valid == kTileTokens) {
        sums_ = V::Add(sums_, sums[i]);
        continue;
      }
      V::Store(reinterpret_cast<std::byte*>(lanes), sums[i]);
      for (uint32_t lane = 0; lane < V::kWords; ++lane) {
        if (TokenOfLane<V>(i, lane) < valid) scalar_sum_ += lanes[lane];
      }
    }
  }

  // Two tokens lie value by value beside each other: 16 bytes hold a word of
  // each once its values are sorted.
  void ValueTile(uint32_t words, uint32_t valid, uint64_t key) {
    const Reg step = V::Broadcast(V::kWords / 2 * kDigestStep);
    for (uint32_t token = 0; token < kTileTokens; token += 2) {
      const uint64_t row_bytes = uint64_t{words} * 16;
      if (token >= valid) {
        Pass(row_bytes * ((kTileTokens - token) / 2));
        return;
      }
      uint64_t lanes[V::kWords];
      for (uint32_t lane = 0; lane < V::kWords; ++lane) {
        lanes[lane] = key + ((token + lane % 2) * uint64_t{words} + lane / 2) *
                                kDigestStep;
      }
      Reg keys = V::Load(reinterpret_cast<const std::byte*>(lanes));
      Reg sums = V::Zero();
      for (uint64_t at = 0; at < row_bytes; at += kLineBytes) {
        Prefetch(1);
        for (uint64_t in = 0; in < kLineBytes; in += kBytes) {
          const Reg sorted = V::SortPairs(Take(in));
          sums = V::Add(sums, V::Mix(V::Add(sorted, keys)));
          keys = V::Add(keys, step);
        }
        Advance(kLineBytes);
      }
      if (token + 1 < valid) {
        sums_ = V::Add(sums_, sums);
        continue;
      }
      V::Store(reinterpret_cast<std::byte*>(lanes), sums);
      for (uint32_t lane = 0; lane < V::kWords; lane += 2) {
        scalar_sum_ += lanes[lane];
      }
    }
  }

  const std::byte* from_;
  std::byte* to_;
  const uint64_t ahead_;
  const std::byte* const end_;
  const uintptr_t wrap_;
  const bool prefetches_;
  bool aligned_ = false;
  Reg sums_;
  uint64_t scalar_sum_ = 0;
};

template <class V>
void CopyPiece(const PieceArgs& args) {
  PieceLoop<V, What::kCopy>(args).Pass(args.size_bytes);
}

template <class V>
uint64_t DigestPiece(const PieceArgs& args) {
  return PieceLoop<V, What::kDigest>(args).Run(args);
}

template <class V>
uint64_t CopyAndDigestPiece(const PieceArgs& args) {
  return PieceLoop<V, What::kBoth>(args).Run(args);
}

}  // namespace
}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_PIECE_LOOPS_H_
