#include "kernels/cpu/sample_row.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "kernels/cpu/exp.h"
#include "kernels/exact_math.h"

namespace sluice::kernels {
namespace {

// Sorting this many keys is cheaper than another partition.
constexpr int64_t kSortKeys = 1024;

int64_t Blocks(int64_t vocab) {
  return (vocab + kSampleBlock - 1) / kSampleBlock;
}

int64_t AlignUp(int64_t bytes) { return (bytes + 63) / 64 * 64; }

int64_t ScratchBytesOfThread(int64_t vocab) {
  const int64_t blocks = Blocks(vocab);
  return AlignUp(blocks * kSampleBlock * 4) + 2 * AlignUp(blocks * 4) +
         AlignUp(vocab * 8);
}

bool Inside(int32_t token, int64_t vocab) {
  return token >= 0 && token < vocab;
}

bool Penalises(const SampleRow& row) {
  return row.repetition_penalty != 1 || row.frequency_penalty != 0 ||
         row.presence_penalty != 0;
}

uint64_t MassOf(const uint64_t* begin, const uint64_t* end) {
  uint64_t mass = 0;
  for (; begin != end; ++begin) mass += TokenMass(KeyZ(*begin));
  return mass;
}

}  // namespace

bool HasTokenEdits(const SampleRow& row) {
  return !row.bias.empty() || !row.banned.empty() ||
         (Penalises(row) && !row.counts.empty());
}

bool ApplyTokenEdits(const SampleRow& row, int64_t vocab, float* x) {
  bool finite = true;
  for (const TokenBias& bias : row.bias) {
    if (!Inside(bias.token, vocab)) continue;
    x[bias.token] = x[bias.token] + bias.bias;
    finite &= x[bias.token] < INFINITY;
  }
  if (Penalises(row)) {
    const float r = row.repetition_penalty;
    for (const TokenCount& count : row.counts) {
      if (!Inside(count.token, vocab)) continue;
      float& logit = x[count.token];
      if (r != 1) logit = logit > 0 ? logit / r : logit * r;
      if (count.generated >= 1) {
        const float product =
            row.frequency_penalty * static_cast<float>(count.generated);
        logit = (logit - product) - row.presence_penalty;
      }
      finite &= logit < INFINITY;
    }
  }
  for (const int32_t token : row.banned) {
    if (Inside(token, vocab)) x[token] = -INFINITY;
  }
  return finite;
}

bool LimitsTopK(const SampleRow& row, int64_t vocab) {
  return row.top_k > 0 && row.top_k < vocab;
}

bool LimitsTopP(const SampleRow& row) { return row.top_p < 1; }

float MinPThreshold(const SampleRow& row) {
  if (!(row.min_p > 0)) return -INFINITY;
  return static_cast<float>(ExactLog(static_cast<double>(row.min_p)));
}

uint64_t TokenKey(float z, int32_t token) {
  uint32_t bits;
  std::memcpy(&bits, &z, sizeof(bits));
  return static_cast<uint64_t>(bits & 0x7fffffff) << 32 |
         static_cast<uint32_t>(token);
}

float KeyZ(uint64_t key) {
  const uint32_t bits = static_cast<uint32_t>(key >> 32) | 0x80000000;
  float z;
  std::memcpy(&z, &bits, sizeof(z));
  return z;
}

int32_t KeyToken(uint64_t key) {
  return static_cast<int32_t>(static_cast<uint32_t>(key));
}

uint64_t TokenMass(float z) {
  return static_cast<uint64_t>(ExpNonPositive(z) * 0x1p40f);
}

uint64_t TopPThreshold(float top_p, uint64_t total_mass) {
  return static_cast<uint64_t>(
      std::ceil(static_cast<double>(top_p) * static_cast<double>(total_mass)));
}

void SelectFirst(uint64_t* keys, int64_t n, int64_t k) {
  std::nth_element(keys, keys + (k - 1), keys + n);
}

int64_t SelectByMass(uint64_t* keys, int64_t n, uint64_t mass_before,
                     uint64_t threshold) {
  // Keys before `low` are in the prefix, those from `high` on are not or not
  // needed.
  int64_t low = 0;
  int64_t high = n;
  uint64_t mass = mass_before;
  while (high - low > kSortKeys) {
    const int64_t middle = low + (high - low) / 2;
    std::nth_element(keys + low, keys + middle, keys + high);
    const uint64_t half = MassOf(keys + low, keys + middle);
    if (mass + half >= threshold) {
      high = middle;
    } else {
      mass += half;
      low = middle;
    }
  }
  std::sort(keys + low, keys + high);
  for (int64_t i = low; i < high; ++i) {
    mass += TokenMass(KeyZ(keys[i]));
    if (mass >= threshold) return i + 1;
  }
  return n;
}

float KthLargest(float* values, int64_t n, int64_t k) {
  std::nth_element(values, values + (k - 1), values + n, std::greater<float>());
  return values[k - 1];
}

int32_t DrawFromKeys(const uint64_t* keys, int64_t n,
                     const RandomStream& stream) {
  int32_t best = -1;
  float best_key = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t token = KeyToken(keys[i]);
    const float key =
        KeyZ(keys[i]) + Noise(RandomWord(stream, static_cast<uint32_t>(token)));
    if (best < 0 || key > best_key || (key == best_key && token < best)) {
      best = token;
      best_key = key;
    }
  }
  return best;
}

SampleScratch ScratchOfThread(uint8_t* scratch, int64_t vocab, int thread) {
  const int64_t blocks = Blocks(vocab);
  uint8_t* at = scratch + thread * ScratchBytesOfThread(vocab);
  SampleScratch result;
  result.x = reinterpret_cast<float*>(at);
  at += AlignUp(blocks * kSampleBlock * 4);
  result.block_max = reinterpret_cast<float*>(at);
  at += AlignUp(blocks * 4);
  result.block_copy = reinterpret_cast<float*>(at);
  at += AlignUp(blocks * 4);
  result.keys = reinterpret_cast<uint64_t*>(at);
  return result;
}

int64_t SampleScratchBytes(int64_t vocab, int64_t threads) {
  return threads * ScratchBytesOfThread(vocab);
}

}  // namespace sluice::kernels
