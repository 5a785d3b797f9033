#ifndef KVTRANSFER_PIECE_GROUP_LOOPS_H_
#define KVTRANSFER_PIECE_GROUP_LOOPS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "kvtransfer/piece_loops.h"

// Included like piece_loops.h: internal linkage only.
namespace sluice::kvtransfer {
namespace {

// Several pieces of one shape, a few lines of each in turn, and the same lines
// a little further on, or of the next group, prefetched: reads of many pages
// are under way at once, where a single short piece ends before the processor's
// own prefetcher is. V is a vector of V::kWords words.
template <class V>
class GroupLoop {
 public:
  using Reg = typename V::Reg;
  static constexpr uint64_t kBytes = V::kWords * 8;
  static constexpr uint32_t kRegsPerLine = kLineBytes / kBytes;
  // Lines of one piece before the turn of the next: the fastest from 4 to
  // 64 KiB.
  static constexpr uint64_t kTurnBytes = 4 * kLineBytes;
  static constexpr uint64_t kTurnWords = kTurnBytes / 8;

  explicit GroupLoop(absl::Span<const PieceArgs> pieces)
      : pieces_(pieces),
        size_(pieces.size()),
        ahead_(pieces[0].size_bytes <= kPageBytes ? pieces[0].size_bytes
                                                  : kPageBytes / 2) {
    for (size_t i = 0; i < size_; ++i) {
      const PieceArgs& piece = pieces[i];
      const std::byte* next = piece.next != nullptr ? piece.next : piece.from;
      const uintptr_t end = Address(piece.from) + piece.size_bytes;
      places_[i] = {piece.from,          piece.to, end,
                    Address(next) - end, 0,        V::Zero()};
    }
  }

  // Whether all are of the first one's size, and can be stored past the caches.
  static bool CanCopy(absl::Span<const PieceArgs> pieces) {
    if (pieces.size() < 2 || pieces.size() > kGroupPieces) return false;
    const uint64_t size = pieces[0].size_bytes;
    return size % kTurnBytes == 0 &&
           std::all_of(pieces.begin(), pieces.end(), [&](const PieceArgs& p) {
             return p.size_bytes == size &&
                    reinterpret_cast<uintptr_t>(p.to) % kLineBytes == 0;
           });
  }

  // As well, whether they consist of the same runs, filled to the end.
  static bool CanDigest(absl::Span<const PieceArgs> pieces) {
    if (!CanCopy(pieces)) return false;
    const absl::Span<const PieceRun> runs = pieces[0].runs;
    for (const PieceArgs& piece : pieces) {
      if (piece.runs.data() != runs.data() ||
          piece.runs.size() != runs.size()) {
        return false;
      }
    }
    return std::all_of(runs.begin(), runs.end(), IsWhole);
  }

  void Copy() {
    for (uint64_t at = 0; at < pieces_[0].size_bytes; at += kTurnBytes) {
      for (size_t i = 0; i < size_; ++i) {
        Prefetch(places_[i]);
        for (uint64_t in = 0; in < kTurnBytes; in += kBytes) {
          (void)Take(places_[i], in);
        }
        Advance(places_[i]);
      }
    }
  }

  void CopyAndDigest(absl::Span<uint64_t> sums) {
    for (const PieceRun& run : pieces_[0].runs) {
      for (size_t i = 0; i < size_; ++i) {
        places_[i].key = run.key + pieces_[i].token * run.words * kDigestStep;
      }
      switch (run.order) {
        case RunOrder::kRows:
          Rows(run);
          break;
        case RunOrder::kKeyTiles:
          KeyTiles(run);
          break;
        case RunOrder::kValueTiles:
          ValueTiles(run);
          break;
      }
    }
    for (size_t i = 0; i < size_; ++i) sums[i] = V::Sum(places_[i].sums);
  }

 private:
  // Where one piece stands.
  struct Place {
    const std::byte* from;
    std::byte* to;
    uintptr_t end;   // of what is read
    uintptr_t wrap;  // from there to where the next group's will be
    uint64_t key;    // of the first word of the run it is in
    Reg sums;
  };

  static bool IsWhole(const PieceRun& run) {
    if (uint64_t{run.tokens} * run.words * 8 != run.size_bytes ||
        run.size_bytes % kTurnBytes != 0) {
      return false;
    }
    switch (run.order) {
      case RunOrder::kRows:
        return true;
      case RunOrder::kKeyTiles:
        return run.tokens % kTileTokens == 0 && run.words % 2 == 0;
      case RunOrder::kValueTiles:
        return run.tokens % kTileTokens == 0 &&
               uint64_t{run.words} * 16 % kTurnBytes == 0;
    }
    return false;
  }

  static uintptr_t Address(const std::byte* at) {
    return reinterpret_cast<uintptr_t>(at);
  }

  // To the second level: eight pages at the same place of each do not fit the
  // sets of the first beside what is being moved.
  [[gnu::always_inline]] void Prefetch(const Place& place) const {
    constexpr int kSecondLevel = 2;
    uintptr_t at = Address(place.from) + ahead_;
    if (at >= place.end) at += place.wrap;
    for (uint64_t in = 0; in < kTurnBytes; in += kLineBytes) {
      __builtin_prefetch(reinterpret_cast<const char*>(at + in), 0,
                         kSecondLevel);
    }
  }

  [[gnu::always_inline]] static Reg Take(const Place& place, uint64_t at) {
    const Reg words = V::Load(place.from + at);
    V::Stream(place.to + at, words);
    return words;
  }

  [[gnu::always_inline]] static void Advance(Place& place) {
    place.from += kTurnBytes;
    place.to += kTurnBytes;
  }

  // Of words whose keys are `keys`, then `step` more each register.
  template <bool kSorts>
  [[gnu::always_inline]] void AddTurn(Place& place, Reg keys, Reg step) {
    Prefetch(place);
    Reg sums = place.sums;
    for (uint64_t at = 0; at < kTurnBytes; at += kBytes) {
      Reg words = Take(place, at);
      if (kSorts) words = V::SortPairs(words);
      sums = V::Add(sums, V::Mix(V::Add(words, keys)));
      keys = V::Add(keys, step);
    }
    place.sums = sums;
    Advance(place);
  }

  void Rows(const PieceRun& run) {
    const Reg ramp = V::Ramp(0, kDigestStep);
    const Reg step = V::Broadcast(V::kWords * kDigestStep);
    for (uint64_t word = 0; word < run.size_bytes / 8; word += kTurnWords) {
      for (size_t i = 0; i < size_; ++i) {
        const uint64_t key = places_[i].key + word * kDigestStep;
        AddTurn<false>(places_[i], V::Add(V::Broadcast(key), ramp), step);
      }
    }
  }

  // A turn is two words of 16 tokens (PieceLoop::KeyTile).
  void KeyTiles(const PieceRun& run) {
    Reg ramps[2 * kRegsPerLine];
    uint64_t lanes[V::kWords];
    for (uint32_t r = 0; r < 2 * kRegsPerLine; ++r) {
      for (uint32_t lane = 0; lane < V::kWords; ++lane) {
        lanes[lane] =
            uint64_t{TokenOfLane<V>(r, lane)} * run.words * kDigestStep;
      }
      ramps[r] = V::Load(reinterpret_cast<const std::byte*>(lanes));
    }
    for (uint32_t token = 0; token < run.tokens; token += kTileTokens) {
      for (uint32_t word = 0; word < run.words; word += 2) {
        const uint64_t index = uint64_t{token} * run.words + word;
        for (size_t i = 0; i < size_; ++i) {
          AddKeyTurn(places_[i], places_[i].key + index * kDigestStep, ramps);
        }
      }
    }
  }

  [[gnu::always_inline]] void AddKeyTurn(Place& place, uint64_t key,
                                         const Reg* ramps) {
    Prefetch(place);
    Reg sums = place.sums;
    for (uint64_t at = 0; at < kTurnBytes; at += 2 * kLineBytes) {
      const Reg first = V::Broadcast(key);
      for (uint32_t h = 0; h < kRegsPerLine; ++h) {
        const Reg low = Take(place, at + h * kBytes);
        const Reg high = Take(place, at + kLineBytes + h * kBytes);
        sums = V::Add(sums, V::Mix(V::Add(V::InterleaveLow(low, high),
                                          V::Add(first, ramps[2 * h]))));
        sums = V::Add(sums, V::Mix(V::Add(V::InterleaveHigh(low, high),
                                          V::Add(first, ramps[2 * h + 1]))));
      }
      key += kDigestStep;
    }
    place.sums = sums;
    Advance(place);
  }

  // Two tokens lie value by value beside each other (PieceLoop::ValueTile).
  void ValueTiles(const PieceRun& run) {
    uint64_t lanes[V::kWords];
    for (uint32_t lane = 0; lane < V::kWords; ++lane) {
      lanes[lane] = (uint64_t{lane % 2} * run.words + lane / 2) * kDigestStep;
    }
    const Reg ramp = V::Load(reinterpret_cast<const std::byte*>(lanes));
    const Reg step = V::Broadcast(V::kWords / 2 * kDigestStep);
    for (uint32_t token = 0; token < run.tokens; token += 2) {
      for (uint32_t word = 0; word < run.words; word += kTurnWords / 2) {
        const uint64_t index = uint64_t{token} * run.words + word;
        for (size_t i = 0; i < size_; ++i) {
          const uint64_t key = places_[i].key + index * kDigestStep;
          AddTurn<true>(places_[i], V::Add(V::Broadcast(key), ramp), step);
        }
      }
    }
  }

  const absl::Span<const PieceArgs> pieces_;
  const size_t size_;
  const uint64_t ahead_;
  std::array<Place, kGroupPieces> places_;
};

template <class V>
void CopyGroup(absl::Span<const PieceArgs> pieces) {
  if (GroupLoop<V>::CanCopy(pieces)) {
    GroupLoop<V>(pieces).Copy();
    return;
  }
  for (const PieceArgs& piece : pieces) CopyPiece<V>(piece);
}

template <class V>
void CopyAndDigestGroup(absl::Span<const PieceArgs> pieces,
                        absl::Span<uint64_t> sums) {
  if (GroupLoop<V>::CanDigest(pieces)) {
    GroupLoop<V>(pieces).CopyAndDigest(sums);
    return;
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    sums[i] = CopyAndDigestPiece<V>(pieces[i]);
  }
}

template <class V>
constexpr PieceKernels PieceKernelsOn() {
  return {CopyPiece<V>, DigestPiece<V>, CopyAndDigestPiece<V>, CopyGroup<V>,
          CopyAndDigestGroup<V>};
}

}  // namespace
}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_PIECE_GROUP_LOOPS_H_
