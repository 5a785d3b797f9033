#include "kernels/packed_matrix.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/packed_layout.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/quant/bf16.h"
#include "kernels/quant/f16.h"
#include "kernels/quant/q4_0.h"
#include "kernels/quant/q4_1.h"
#include "kernels/quant/q4_k.h"
#include "kernels/quant/q5_0.h"
#include "kernels/quant/q5_1.h"
#include "kernels/quant/q5_k.h"
#include "kernels/quant/q6_k.h"
#include "kernels/quant/q8_0.h"

namespace sluice::kernels {
namespace {

constexpr uint32_t kLowNibbles = 0x0f0f0f0f;
constexpr uint32_t kLowPairs = 0x03030303;
constexpr uint32_t kLowBits = 0x01010101;

uint32_t Word(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// The stored rows of one panel; null where n is padded.
using PanelRows = const uint8_t* [kPanelColumns];

// 32 codes of a column, four of k in each word; what is above the nibbles is
// apart.
struct Codes {
  uint32_t low[8];
  uint32_t high[8];
};

// 16 bytes of nibbles, element j low and j + 16 high: a word of the file holds
// 4 of k of the lower half and the same 4 of the upper half.
void ReadNibbles(const uint8_t* nibbles, uint32_t (&low)[8]) {
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = Word(nibbles + 4 * i);
    low[i] = word & kLowNibbles;
    low[i + 4] = word >> 4 & kLowNibbles;
  }
}

// Bit i of 32 as the lowest bit of byte i % 4 of word i / 4. Four copies of
// four bits, 7 apart, put one at the foot of each byte.
void SpreadBits(uint32_t bits, uint32_t (&high)[8]) {
  for (int i = 0; i < 8; ++i) {
    high[i] = (bits >> (4 * i) & 15) * 0x00204081 & kLowBits;
  }
}

// The nibbles as column `column` of four packed lines.
void PutNibbles(const uint32_t (&low)[8], int64_t column,
                uint8_t (*codes)[64]) {
  for (int i = 0; i < 4; ++i) {
    const uint32_t line = low[2 * i] | low[2 * i + 1] << 4;
    std::memcpy(codes[i] + 4 * column, &line, sizeof(line));
  }
}

// One bit of each code as column `column` of a packed plane.
void PutBits(const uint32_t (&high)[8], int64_t column, uint8_t* plane) {
  uint32_t word = 0;
  for (int i = 0; i < 8; ++i) word |= high[i] << i;
  std::memcpy(plane + 4 * column, &word, sizeof(word));
}

void RepackNibbles(const uint8_t* nibbles, int64_t column,
                   uint8_t (*codes)[64]) {
  uint32_t low[8];
  ReadNibbles(nibbles, low);
  PutNibbles(low, column, codes);
}

void RepackBits(const uint8_t* bits, int64_t column, uint8_t* plane) {
  uint32_t high[8];
  SpreadBits(Word(bits), high);
  PutBits(high, column, plane);
}

void PackPanel(const PanelRows& rows, int64_t k, PackedQ8_0* groups) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t g = 0; g < k / kGroupElements; ++g) {
      const uint8_t* block = rows[c] + g * kQ8_0BlockBytes;
      std::memcpy(&groups[g].scale[c], block, 2);
      for (int i = 0; i < 8; ++i) {
        std::memcpy(groups[g].codes[i] + 4 * c, block + 2 + 4 * i, 4);
      }
    }
  }
}

void PackPanel(const PanelRows& rows, int64_t k, PackedQ4_0* groups) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t g = 0; g < k / kGroupElements; ++g) {
      const uint8_t* block = rows[c] + g * kQ4_0BlockBytes;
      std::memcpy(&groups[g].scale[c], block, 2);
      RepackNibbles(block + 2, c, groups[g].codes);
    }
  }
}

void PackPanel(const PanelRows& rows, int64_t k, PackedQ4_1* groups) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t g = 0; g < k / kGroupElements; ++g) {
      const uint8_t* block = rows[c] + g * kQ4_1BlockBytes;
      std::memcpy(&groups[g].scale[c], block, 2);
      std::memcpy(&groups[g].minimum[c], block + 2, 2);
      RepackNibbles(block + 4, c, groups[g].codes);
    }
  }
}

void PackPanel(const PanelRows& rows, int64_t k, PackedQ5_0* groups) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t g = 0; g < k / kGroupElements; ++g) {
      const uint8_t* block = rows[c] + g * kQ5_0BlockBytes;
      std::memcpy(&groups[g].scale[c], block, 2);
      RepackBits(block + 2, c, groups[g].high);
      RepackNibbles(block + 6, c, groups[g].codes);
    }
  }
}

void PackPanel(const PanelRows& rows, int64_t k, PackedQ5_1* groups) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t g = 0; g < k / kGroupElements; ++g) {
      const uint8_t* block = rows[c] + g * kQ5_1BlockBytes;
      std::memcpy(&groups[g].scale[c], block, 2);
      std::memcpy(&groups[g].minimum[c], block + 2, 2);
      RepackBits(block + 4, c, groups[g].high);
      RepackNibbles(block + 8, c, groups[g].codes);
    }
  }
}

// Sub-block j of 32 of Q4_K and Q5_K.
void ReadSubBlock(const uint8_t* nibbles, int j, uint32_t (&low)[8]) {
  for (int i = 0; i < 8; ++i) {
    const uint32_t word = Word(nibbles + j / 2 * 32 + 4 * i);
    low[i] = word >> (j % 2 * 4) & kLowNibbles;
  }
}

// `block` starts with d, dmin and the sub-scales.
template <typename Super>
void PackKScales(const uint8_t* block, int64_t c, Super& super) {
  std::memcpy(&super.d[c], block, 2);
  std::memcpy(&super.dmin[c], block + 2, 2);
  for (int j = 0; j < kSubBlocks; ++j) {
    const KScale k = KScaleAt(block + 4, j);
    super.scales[j][c] = k.scale;
    super.minima[j / 2][c][j % 2] = k.minimum;
  }
}

void PackPanel(const PanelRows& rows, int64_t k, PackedQ4_K* supers) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t s = 0; s < k / kSuperElements; ++s) {
      const uint8_t* block = rows[c] + s * kQ4_KBlockBytes;
      PackKScales(block, c, supers[s]);
      for (int j = 0; j < kSubBlocks; ++j) {
        uint32_t low[8];
        ReadSubBlock(block + 16, j, low);
        PutNibbles(low, c, supers[s].codes[j]);
      }
    }
  }
}

void PackPanel(const PanelRows& rows, int64_t k, PackedQ5_K* supers) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t s = 0; s < k / kSuperElements; ++s) {
      const uint8_t* block = rows[c] + s * kQ5_KBlockBytes;
      PackKScales(block, c, supers[s]);
      for (int j = 0; j < kSubBlocks; ++j) {
        Codes codes;
        ReadSubBlock(block + 48, j, codes.low);
        for (int i = 0; i < 8; ++i) {
          codes.high[i] = Word(block + 16 + 4 * i) >> j & kLowBits;
        }
        PutNibbles(codes.low, c, supers[s].codes[j]);
        PutBits(codes.high, c, supers[s].high[j]);
      }
    }
  }
}

// Sub-block j of 32 of Q6_K: a quarter of one half.
Codes ReadQ6_K(const uint8_t* block, int j) {
  const uint8_t* nibbles = block + j / 4 * 64 + j % 2 * 32;
  const uint8_t* pairs = block + 128 + j / 4 * 32;
  const int r = j % 4;
  Codes codes;
  for (int i = 0; i < 8; ++i) {
    codes.low[i] = Word(nibbles + 4 * i) >> (r / 2 * 4) & kLowNibbles;
    codes.high[i] = Word(pairs + 4 * i) >> (2 * r) & kLowPairs;
  }
  return codes;
}

void PackPanel(const PanelRows& rows, int64_t k, PackedQ6_K* supers) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t s = 0; s < k / kSuperElements; ++s) {
      const uint8_t* block = rows[c] + s * kQ6_KBlockBytes;
      PackedQ6_K& super = supers[s];
      std::memcpy(&super.d[c], block + 208, 2);
      for (int j = 0; j < kSubBlocks; ++j) {
        std::memcpy(super.scales[j][c], block + 192 + 2 * j, 2);
        const Codes codes = ReadQ6_K(block, j);
        PutNibbles(codes.low, c, super.codes[j]);
        for (int half = 0; half < 2; ++half) {
          uint32_t word = 0;
          for (int i = 0; i < 4; ++i) {
            word |= codes.high[4 * half + i] << (2 * i);
          }
          std::memcpy(super.high[j][half] + 4 * c, &word, sizeof(word));
        }
      }
    }
  }
}

void PackPanel(const PanelRows& rows, int64_t k, PackedBf16* groups) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t i = 0; i < k; ++i) {
      const int64_t at = i % kGroupElements;
      std::memcpy(&groups[i / kGroupElements].values[at / 2][c][at % 2],
                  rows[c] + 2 * i, 2);
    }
  }
}

void PackPanel(const PanelRows& rows, int64_t k, PackedF16* groups) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t i = 0; i < k; ++i) {
      std::memcpy(&groups[i / kGroupElements].values[i % kGroupElements][c],
                  rows[c] + 2 * i, 2);
    }
  }
}

// Elements [0, count) of block `block` of a stored row, of 256 for the K
// formats and 32 for the others.
void DecodeStored(WeightFormat format, const uint8_t* row, int64_t block,
                  int64_t count, float* out) {
  switch (format) {
    case WeightFormat::kF32:
      std::memcpy(out, row + block * 128, static_cast<size_t>(count) * 4);
      return;
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      for (int64_t i = 0; i < count; ++i) {
        uint16_t bits;
        std::memcpy(&bits, row + (block * 32 + i) * 2, sizeof(bits));
        out[i] =
            format == WeightFormat::kF16 ? F16ToF32(bits) : Bf16ToF32(bits);
      }
      return;
    case WeightFormat::kQ8_0:
      return DecodeQ8_0(row + block * kQ8_0BlockBytes, out);
    case WeightFormat::kQ4_0:
      return DecodeQ4_0(row + block * kQ4_0BlockBytes, out);
    case WeightFormat::kQ4_1:
      return DecodeQ4_1(row + block * kQ4_1BlockBytes, out);
    case WeightFormat::kQ5_0:
      return DecodeQ5_0(row + block * kQ5_0BlockBytes, out);
    case WeightFormat::kQ5_1:
      return DecodeQ5_1(row + block * kQ5_1BlockBytes, out);
    case WeightFormat::kQ4_K:
      return DecodeQ4_K(row + block * kQ4_KBlockBytes, out);
    case WeightFormat::kQ5_K:
      return DecodeQ5_K(row + block * kQ5_KBlockBytes, out);
    case WeightFormat::kQ6_K:
      return DecodeQ6_K(row + block * kQ6_KBlockBytes, out);
  }
}

void PackPanelAsF32(WeightFormat format, const PanelRows& rows, int64_t k,
                    PackedF32* groups) {
  const int64_t elements = std::max(kGroupElements, BlockElements(format));
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t begin = 0; begin < k; begin += elements) {
      const int64_t count = std::min(elements, k - begin);
      float values[kSuperElements];
      DecodeStored(format, rows[c], begin / elements, count, values);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = begin + i;
        groups[at / kGroupElements].values[at % kGroupElements][c] = values[i];
      }
    }
  }
}

void PackOnePanel(const PackArgs& args, const PanelRows& rows, uint8_t* panel) {
  if (args.widen_to_f32 || args.format == WeightFormat::kF32) {
    PackPanelAsF32(args.format, rows, args.k,
                   reinterpret_cast<PackedF32*>(panel));
    return;
  }
  switch (args.format) {
    case WeightFormat::kF32:
      return;
    case WeightFormat::kF16:
      return PackPanel(rows, args.k, reinterpret_cast<PackedF16*>(panel));
    case WeightFormat::kBF16:
      return PackPanel(rows, args.k, reinterpret_cast<PackedBf16*>(panel));
    case WeightFormat::kQ8_0:
      return PackPanel(rows, args.k, reinterpret_cast<PackedQ8_0*>(panel));
    case WeightFormat::kQ4_0:
      return PackPanel(rows, args.k, reinterpret_cast<PackedQ4_0*>(panel));
    case WeightFormat::kQ4_1:
      return PackPanel(rows, args.k, reinterpret_cast<PackedQ4_1*>(panel));
    case WeightFormat::kQ5_0:
      return PackPanel(rows, args.k, reinterpret_cast<PackedQ5_0*>(panel));
    case WeightFormat::kQ5_1:
      return PackPanel(rows, args.k, reinterpret_cast<PackedQ5_1*>(panel));
    case WeightFormat::kQ4_K:
      return PackPanel(rows, args.k, reinterpret_cast<PackedQ4_K*>(panel));
    case WeightFormat::kQ5_K:
      return PackPanel(rows, args.k, reinterpret_cast<PackedQ5_K*>(panel));
    case WeightFormat::kQ6_K:
      return PackPanel(rows, args.k, reinterpret_cast<PackedQ6_K*>(panel));
  }
}

// Row `index` of the concatenation of `parts`, or null past its end.
const uint8_t* RowAt(absl::Span<const StoredRows> parts, int64_t index,
                     int64_t row_bytes) {
  for (const StoredRows& part : parts) {
    if (index < part.rows) return part.bytes + index * row_bytes;
    index -= part.rows;
  }
  return nullptr;
}

// One column of one packed group, decoded exactly.
void DecodeColumn(const PackedQ8_0& group, int64_t c, float* out) {
  const float d = F16ToF32(group.scale[c]);
  for (int64_t i = 0; i < kGroupElements; ++i) {
    const int8_t code = static_cast<int8_t>(group.codes[i / 4][4 * c + i % 4]);
    out[i] = d * static_cast<float>(code);
  }
}

int NibbleAt(const uint8_t (*codes)[64], int64_t c, int64_t i) {
  return codes[i / 8][4 * c + i % 4] >> (i / 4 % 2 * 4) & 15;
}

void DecodeColumn(const PackedQ4_0& group, int64_t c, float* out) {
  const float d = F16ToF32(group.scale[c]);
  for (int64_t i = 0; i < kGroupElements; ++i) {
    out[i] = d * static_cast<float>(NibbleAt(group.codes, c, i) - 8);
  }
}

void DecodeColumn(const PackedQ4_1& group, int64_t c, float* out) {
  const float d = F16ToF32(group.scale[c]);
  const float m = F16ToF32(group.minimum[c]);
  for (int64_t i = 0; i < kGroupElements; ++i) {
    out[i] = d * static_cast<float>(NibbleAt(group.codes, c, i)) + m;
  }
}

int BitAt(const uint8_t* plane, int64_t c, int64_t i) {
  return plane[4 * c + i % 4] >> (i / 4) & 1;
}

void DecodeColumn(const PackedQ5_0& group, int64_t c, float* out) {
  const float d = F16ToF32(group.scale[c]);
  for (int64_t i = 0; i < kGroupElements; ++i) {
    const int code = NibbleAt(group.codes, c, i) | BitAt(group.high, c, i) << 4;
    out[i] = d * static_cast<float>(code - 16);
  }
}

void DecodeColumn(const PackedQ5_1& group, int64_t c, float* out) {
  const float d = F16ToF32(group.scale[c]);
  const float m = F16ToF32(group.minimum[c]);
  for (int64_t i = 0; i < kGroupElements; ++i) {
    const int code = NibbleAt(group.codes, c, i) | BitAt(group.high, c, i) << 4;
    out[i] = d * static_cast<float>(code) + m;
  }
}

// Q4_K and Q5_K.
template <typename Super>
void DecodeKColumn(const Super& super, int64_t c, float* out) {
  const float d = F16ToF32(super.d[c]);
  const float dmin = F16ToF32(super.dmin[c]);
  for (int j = 0; j < kSubBlocks; ++j) {
    const float scale = d * static_cast<float>(super.scales[j][c]);
    const float minimum =
        dmin * static_cast<float>(super.minima[j / 2][c][j % 2]);
    for (int64_t i = 0; i < kGroupElements; ++i) {
      int code = NibbleAt(super.codes[j], c, i);
      if constexpr (requires { super.high; }) {
        code |= BitAt(super.high[j], c, i) << 4;
      }
      out[kGroupElements * j + i] = scale * static_cast<float>(code) - minimum;
    }
  }
}

void DecodeColumn(const PackedQ4_K& super, int64_t c, float* out) {
  DecodeKColumn(super, c, out);
}

void DecodeColumn(const PackedQ5_K& super, int64_t c, float* out) {
  DecodeKColumn(super, c, out);
}

void DecodeColumn(const PackedQ6_K& super, int64_t c, float* out) {
  const float d = F16ToF32(super.d[c]);
  for (int j = 0; j < kSubBlocks; ++j) {
    for (int64_t i = 0; i < kGroupElements; ++i) {
      const uint8_t pairs = super.high[j][i / 16][4 * c + i % 4];
      const int high = pairs >> (i / 4 % 4 * 2) & 3;
      const int code = NibbleAt(super.codes[j], c, i) | high << 4;
      const float scale = d * static_cast<float>(super.scales[j][c][i / 16]);
      out[kGroupElements * j + i] = scale * static_cast<float>(code - 32);
    }
  }
}

void DecodeColumn(const PackedBf16& group, int64_t c, float* out) {
  for (int64_t i = 0; i < kGroupElements; ++i) {
    out[i] = Bf16ToF32(group.values[i / 2][c][i % 2]);
  }
}

void DecodeColumn(const PackedF16& group, int64_t c, float* out) {
  for (int64_t i = 0; i < kGroupElements; ++i) {
    out[i] = F16ToF32(group.values[i][c]);
  }
}

void DecodeColumn(const PackedF32& group, int64_t c, float* out) {
  for (int64_t i = 0; i < kGroupElements; ++i) out[i] = group.values[i][c];
}

// Of k in one Group.
template <typename Group>
constexpr int64_t kElementsOf = requires(Group group) {
  group.d;
}
? kSuperElements : kGroupElements;

template <typename Group>
void DecodeRowAs(const PackedMatrix& matrix, int64_t row, float* out) {
  constexpr int64_t kElements = kElementsOf<Group>;
  const int64_t num_groups = (matrix.k + kElements - 1) / kElements;
  const Group* panel = reinterpret_cast<const Group*>(matrix.bytes) +
                       row / kPanelColumns * num_groups;
  const int64_t column = row % kPanelColumns;
  for (int64_t g = 0; g < num_groups; ++g) {
    float values[kElements];
    DecodeColumn(panel[g], column, values);
    const int64_t at = g * kElements;
    const int64_t count = std::min(kElements, matrix.k - at);
    std::memcpy(out + at, values, static_cast<size_t>(count) * sizeof(float));
  }
}

}  // namespace

absl::string_view Name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return "F32";
    case WeightFormat::kF16:
      return "F16";
    case WeightFormat::kBF16:
      return "BF16";
    case WeightFormat::kQ8_0:
      return "Q8_0";
    case WeightFormat::kQ4_0:
      return "Q4_0";
    case WeightFormat::kQ4_1:
      return "Q4_1";
    case WeightFormat::kQ5_0:
      return "Q5_0";
    case WeightFormat::kQ5_1:
      return "Q5_1";
    case WeightFormat::kQ4_K:
      return "Q4_K";
    case WeightFormat::kQ5_K:
      return "Q5_K";
    case WeightFormat::kQ6_K:
      return "Q6_K";
  }
  return "?";
}

int64_t BlockElements(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      return 1;
    case WeightFormat::kQ8_0:
    case WeightFormat::kQ4_0:
    case WeightFormat::kQ4_1:
    case WeightFormat::kQ5_0:
    case WeightFormat::kQ5_1:
      return 32;
    case WeightFormat::kQ4_K:
    case WeightFormat::kQ5_K:
    case WeightFormat::kQ6_K:
      return 256;
  }
  return 1;
}

int64_t StoredRowBytes(WeightFormat format, int64_t k) {
  SLUICE_CHECK(k % BlockElements(format) == 0);
  switch (format) {
    case WeightFormat::kF32:
      return 4 * k;
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      return 2 * k;
    case WeightFormat::kQ8_0:
      return k / 32 * kQ8_0BlockBytes;
    case WeightFormat::kQ4_0:
      return k / 32 * kQ4_0BlockBytes;
    case WeightFormat::kQ4_1:
      return k / 32 * kQ4_1BlockBytes;
    case WeightFormat::kQ5_0:
      return k / 32 * kQ5_0BlockBytes;
    case WeightFormat::kQ5_1:
      return k / 32 * kQ5_1BlockBytes;
    case WeightFormat::kQ4_K:
      return k / 256 * kQ4_KBlockBytes;
    case WeightFormat::kQ5_K:
      return k / 256 * kQ5_KBlockBytes;
    case WeightFormat::kQ6_K:
      return k / 256 * kQ6_KBlockBytes;
  }
  return 0;
}

int64_t PackedBytes(WeightFormat format, int64_t n, int64_t k) {
  const int64_t bytes = NumPanels(n) * NumGroups(k) * PackedGroupBytes(format);
  return (bytes + 63) / 64 * 64;
}

PackedMatrix PackMatrix(const OpContext& context, const PackArgs& args) {
  const int64_t row_bytes = StoredRowBytes(args.format, args.k);
  const WeightFormat format =
      args.widen_to_f32 ? WeightFormat::kF32 : args.format;
  int64_t n = 0;
  for (const StoredRows& part : args.parts) n += part.rows;
  const int64_t panel_bytes = NumGroups(args.k) * PackedGroupBytes(format);
  const int threads = context.pool->num_threads();
  context.pool->Run([&](int thread) {
    const WorkRange panels = PartOf(NumPanels(n), 1, thread, threads);
    for (int64_t p = panels.begin; p < panels.end; ++p) {
      PanelRows rows;
      for (int64_t c = 0; c < kPanelColumns; ++c) {
        rows[c] = RowAt(args.parts, p * kPanelColumns + c, row_bytes);
      }
      uint8_t* panel = args.packed_bytes + p * panel_bytes;
      std::memset(panel, 0, static_cast<size_t>(panel_bytes));
      PackOnePanel(args, rows, panel);
    }
  });
  const int64_t used = NumPanels(n) * panel_bytes;
  std::memset(args.packed_bytes + used, 0,
              static_cast<size_t>(PackedBytes(format, n, args.k) - used));
  return {.format = format, .n = n, .k = args.k, .bytes = args.packed_bytes};
}

void DecodeRow(const PackedMatrix& matrix, int64_t row, float* out) {
  SLUICE_CHECK(row >= 0 && row < matrix.n);
  switch (matrix.format) {
    case WeightFormat::kF32:
      return DecodeRowAs<PackedF32>(matrix, row, out);
    case WeightFormat::kF16:
      return DecodeRowAs<PackedF16>(matrix, row, out);
    case WeightFormat::kBF16:
      return DecodeRowAs<PackedBf16>(matrix, row, out);
    case WeightFormat::kQ8_0:
      return DecodeRowAs<PackedQ8_0>(matrix, row, out);
    case WeightFormat::kQ4_0:
      return DecodeRowAs<PackedQ4_0>(matrix, row, out);
    case WeightFormat::kQ4_1:
      return DecodeRowAs<PackedQ4_1>(matrix, row, out);
    case WeightFormat::kQ5_0:
      return DecodeRowAs<PackedQ5_0>(matrix, row, out);
    case WeightFormat::kQ5_1:
      return DecodeRowAs<PackedQ5_1>(matrix, row, out);
    case WeightFormat::kQ4_K:
      return DecodeRowAs<PackedQ4_K>(matrix, row, out);
    case WeightFormat::kQ5_K:
      return DecodeRowAs<PackedQ5_K>(matrix, row, out);
    case WeightFormat::kQ6_K:
      return DecodeRowAs<PackedQ6_K>(matrix, row, out);
  }
}

}  // namespace sluice::kernels
