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
#include "kernels/quant/q8_0.h"

namespace sluice::kernels {
namespace {

constexpr uint32_t kLowNibbles = 0x0f0f0f0f;

uint32_t Word(const uint8_t* bytes) {
  uint32_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// The stored rows of one panel; null where n is padded.
using PanelRows = const uint8_t* [kPanelColumns];

// 16 bytes of nibbles (element j low, j + 16 high) as column `column` of four
// packed lines. A word of the file holds 4 of k of the lower half and the same
// 4 of the upper half.
void RepackNibbles(const uint8_t* nibbles, int64_t column,
                   uint8_t (*codes)[64]) {
  uint32_t chunk[8];
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = Word(nibbles + 4 * i);
    chunk[i] = word & kLowNibbles;
    chunk[i + 4] = word >> 4 & kLowNibbles;
  }
  for (int i = 0; i < 4; ++i) {
    const uint32_t line = chunk[2 * i] | chunk[2 * i + 1] << 4;
    std::memcpy(codes[i] + 4 * column, &line, sizeof(line));
  }
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

// Elements [0, count) of block `block` of a stored row, count <= 32.
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
  }
}

void PackPanelAsF32(WeightFormat format, const PanelRows& rows, int64_t k,
                    PackedF32* groups) {
  for (int64_t c = 0; c < kPanelColumns; ++c) {
    if (rows[c] == nullptr) continue;
    for (int64_t g = 0; g < NumGroups(k); ++g) {
      const int64_t count = std::min(kGroupElements, k - g * kGroupElements);
      float values[kGroupElements];
      DecodeStored(format, rows[c], g, count, values);
      for (int64_t i = 0; i < count; ++i) groups[g].values[i][c] = values[i];
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

template <typename Group>
void DecodeRowAs(const PackedMatrix& matrix, int64_t row, float* out) {
  const int64_t num_groups = NumGroups(matrix.k);
  const Group* panel = reinterpret_cast<const Group*>(matrix.bytes) +
                       row / kPanelColumns * num_groups;
  const int64_t column = row % kPanelColumns;
  for (int64_t g = 0; g < num_groups; ++g) {
    float values[kGroupElements];
    DecodeColumn(panel[g], column, values);
    const int64_t at = g * kGroupElements;
    const int64_t count = std::min(kGroupElements, matrix.k - at);
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
      return 32;
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
  }
}

}  // namespace sluice::kernels
