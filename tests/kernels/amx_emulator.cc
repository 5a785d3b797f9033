#include "tests/kernels/amx_emulator.h"

#include <immintrin.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "kernels/op_table.h"

namespace sluice::kernels {
namespace {

constexpr int kTiles = 8;
constexpr int kMaxRows = 16;
constexpr int kMaxRowBytes = 64;

// The 64 bytes of LDTILECFG.
struct Config {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

struct Tile {
  alignas(64) uint8_t row[kMaxRows][kMaxRowBytes];
};

// Palette 0: no tiles, as at the start of a thread.
struct State {
  Config config;
  Tile tiles[kTiles];
};
thread_local State t_state;

struct Operand {
  int rows = 0;
  int row_bytes = 0;
  Tile* tile = nullptr;
};

Operand TileOf(int index) {
  SLUICE_CHECK(index < kTiles);                  // #UD
  SLUICE_CHECK(t_state.config.palette == 1);     // #UD: not configured
  SLUICE_CHECK(t_state.config.rows[index] > 0);  // #UD
  return {t_state.config.rows[index], t_state.config.row_bytes[index],
          &t_state.tiles[index]};
}

void LoadConfig(const uint8_t* from) {
  Config config;
  std::memcpy(&config, from, sizeof(config));
  if (config.palette == 0) {
    std::memset(&t_state, 0, sizeof(t_state));
    return;
  }
  // #GP unless all of these hold.
  SLUICE_CHECK(config.palette == 1 && config.start_row == 0);
  for (uint8_t byte : config.reserved) SLUICE_CHECK(byte == 0);
  for (int i = 0; i < 16; ++i) {
    const int rows = config.rows[i];
    const int row_bytes = config.row_bytes[i];
    SLUICE_CHECK(i < kTiles || (rows == 0 && row_bytes == 0));
    SLUICE_CHECK(rows <= kMaxRows && row_bytes <= kMaxRowBytes);
    SLUICE_CHECK((rows == 0) == (row_bytes == 0));
  }
  std::memset(&t_state, 0, sizeof(t_state));
  t_state.config = config;
}

void LoadTile(int index, const uint8_t* from, int64_t stride) {
  const Operand to = TileOf(index);
  std::memset(to.tile, 0, sizeof(Tile));
  for (int r = 0; r < to.rows; ++r) {
    std::memcpy(to.tile->row[r], from + r * stride,
                static_cast<size_t>(to.row_bytes));
  }
}

void StoreTile(int index, uint8_t* to, int64_t stride) {
  const Operand from = TileOf(index);
  for (int r = 0; r < from.rows; ++r) {
    std::memcpy(to + r * stride, from.tile->row[r],
                static_cast<size_t>(from.row_bytes));
  }
}

struct Product {
  Operand c;
  Operand a;
  Operand b;
};

Product ProductOf(int c, int a, int b) {
  SLUICE_CHECK(c != a && a != b && c != b);  // #UD, as the rest
  const Product p = {TileOf(c), TileOf(a), TileOf(b)};
  SLUICE_CHECK(p.c.row_bytes % 4 == 0 && p.a.row_bytes % 4 == 0);
  SLUICE_CHECK(p.c.row_bytes == p.b.row_bytes);
  SLUICE_CHECK(p.c.rows == p.a.rows);
  SLUICE_CHECK(p.a.row_bytes / 4 == p.b.rows);
  return p;
}

// Arithmetic on the thread's own tiles, where no sanitizer has a thing to see
// and each would take most of the time.
#define ON_TILES noinline, no_sanitize("address", "thread", "undefined")

// TDPB{SS,SU,US,UU}D: sums of four products modulo 2^32.
template <typename A, typename B>
__attribute__((ON_TILES)) void MultiplyBytes(const Product& p) {
  for (int m = 0; m < p.c.rows; ++m) {
    uint32_t sums[kMaxRowBytes / 4];
    std::memcpy(sums, p.c.tile->row[m], sizeof(sums));
    for (int k = 0; k < p.b.rows; ++k) {
      const A* a = reinterpret_cast<const A*>(p.a.tile->row[m] + 4 * k);
      const B* b = reinterpret_cast<const B*>(p.b.tile->row[k]);
      for (int n = 0; n < p.c.row_bytes / 4; ++n) {
        int32_t sum = 0;
        for (int j = 0; j < 4; ++j) sum += int32_t{a[j]} * b[4 * n + j];
        sums[n] += static_cast<uint32_t>(sum);
      }
    }
    std::memset(p.c.tile->row[m], 0, kMaxRowBytes);
    std::memcpy(p.c.tile->row[m], sums, static_cast<size_t>(p.c.row_bytes));
  }
}

// TDPBF16PS: per result a chain of fma over the even and one over the odd
// members of the pairs, then c + (even + odd). Lanes are columns; those past a
// row's bytes are zero and stay so. Subnormals count as zero, in and out, by
// the mode the caller has set.
__attribute__((target("avx512f"), ON_TILES)) void MultiplyBf16(
    const Product& p) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  for (int m = 0; m < p.c.rows; ++m) {
    __m512 even = _mm512_setzero_ps();
    __m512 odd = _mm512_setzero_ps();
    for (int k = 0; k < p.b.rows; ++k) {
      int32_t pair;
      std::memcpy(&pair, p.a.tile->row[m] + 4 * k, sizeof(pair));
      const __m512i a = _mm512_set1_epi32(pair);
      const __m512i b = _mm512_load_si512(p.b.tile->row[k]);
      even =
          _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)),
                          _mm512_castsi512_ps(_mm512_slli_epi32(b, 16)), even);
      odd =
          _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a, high)),
                          _mm512_castsi512_ps(_mm512_and_si512(b, high)), odd);
    }
    float* c = reinterpret_cast<float*>(p.c.tile->row[m]);
    alignas(64) float sums[kMaxRowBytes / 4];
    _mm512_store_ps(sums,
                    _mm512_add_ps(_mm512_load_ps(c), _mm512_add_ps(even, odd)));
    std::memcpy(c, sums, static_cast<size_t>(p.c.row_bytes));
  }
}

enum Prefix { kNone = 0, k66 = 1, kF3 = 2, kF2 = 3 };

// One instruction VEX.128.<prefix>.0F38.W0 <opcode> with its ModRM operands.
struct Instruction {
  uint8_t opcode = 0;
  int prefix = 0;
  int vvvv = 0;
  bool memory = false;
  int reg = 0;              // ModRM.reg
  int rm = 0;               // ModRM.rm, of registers
  uint64_t address = 0;     // of memory, without the index
  int64_t index_bytes = 0;  // scaled index: the stride
  bool has_sib = false;
  const uint8_t* end = nullptr;
};

uint64_t RegisterValue(const mcontext_t& machine, int number) {
  constexpr int kOrder[16] = {
      REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return static_cast<uint64_t>(machine.gregs[kOrder[number]]);
}

int64_t Displacement(const uint8_t* bytes, int size) {
  if (size == 1) return static_cast<int8_t>(*bytes);
  int32_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// The memory operand whose ModRM byte is at `at`; x and b are VEX.X and VEX.B
// as 0 or 8.
void DecodeMemory(const mcontext_t& machine, const uint8_t* at, int x, int b,
                  Instruction& to) {
  const int mod = *at >> 6;
  int base = (*at & 7) | b;
  bool has_base = true;
  bool rip_relative = false;
  int disp_bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
  const int rm = *at & 7;
  ++at;
  if (rm == 4) {
    to.has_sib = true;
    const int index = (*at >> 3 & 7) | x;
    if (index != 4) {
      to.index_bytes =
          static_cast<int64_t>(RegisterValue(machine, index) << (*at >> 6));
    }
    base = (*at & 7) | b;
    if (mod == 0 && (*at & 7) == 5) {
      has_base = false;
      disp_bytes = 4;
    }
    ++at;
  } else if (mod == 0 && rm == 5) {
    has_base = false;
    rip_relative = true;
    disp_bytes = 4;
  }
  if (has_base) to.address = RegisterValue(machine, base);
  if (disp_bytes > 0) {
    to.address += static_cast<uint64_t>(Displacement(at, disp_bytes));
  }
  to.end = at + disp_bytes;
  if (rip_relative) to.address += reinterpret_cast<uint64_t>(to.end);
}

// False for what is none of VEX.128.0F38.W0.
bool Decode(const mcontext_t& machine, Instruction& to) {
  const uint8_t* at = reinterpret_cast<const uint8_t*>(machine.gregs[REG_RIP]);
  if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || (at[2] & 0x84) != 0) return false;
  const int r = (at[1] & 0x80) != 0 ? 0 : 8;
  const int x = (at[1] & 0x40) != 0 ? 0 : 8;
  const int b = (at[1] & 0x20) != 0 ? 0 : 8;
  to.vvvv = ~at[2] >> 3 & 15;
  to.prefix = at[2] & 3;
  to.opcode = at[3];
  to.reg = (at[4] >> 3 & 7) | r;
  to.memory = at[4] >> 6 != 3;
  if (to.memory) {
    DecodeMemory(machine, at + 4, x, b, to);
  } else {
    to.rm = (at[4] & 7) | b;
    to.end = at + 5;
  }
  return true;
}

bool ExecuteMemory(const Instruction& op) {
  uint8_t* at = reinterpret_cast<uint8_t*>(op.address);
  if (op.opcode == 0x49 && op.reg == 0 && op.prefix == kNone) {
    LoadConfig(at);
  } else if (op.opcode == 0x49 && op.reg == 0 && op.prefix == k66) {
    std::memcpy(at, &t_state.config, sizeof(t_state.config));
  } else if (op.opcode == 0x4b && op.prefix != kNone) {
    SLUICE_CHECK(op.has_sib);  // #UD
    if (op.prefix == kF3) {
      StoreTile(op.reg, at, op.index_bytes);
    } else {  // F2, or 66: the form that does not fill L1
      LoadTile(op.reg, at, op.index_bytes);
    }
  } else {
    return false;
  }
  return true;
}

bool ExecuteRegisters(const Instruction& op) {
  if (op.opcode == 0x49 && op.prefix == kNone && op.reg == 0 && op.rm == 0) {
    std::memset(&t_state, 0, sizeof(t_state));  // tilerelease
    return true;
  }
  if (op.opcode == 0x49 && op.prefix == kF2 && op.rm == 0) {
    std::memset(TileOf(op.reg).tile, 0, sizeof(Tile));
    return true;
  }
  if (op.opcode == 0x5c && op.prefix == kF3) {
    const uint32_t mode = _mm_getcsr();
    _mm_setcsr(0x9fc0);
    MultiplyBf16(ProductOf(op.reg, op.rm, op.vvvv));
    _mm_setcsr(mode);
    return true;
  }
  if (op.opcode != 0x5e) return false;
  const Product p = ProductOf(op.reg, op.rm, op.vvvv);
  switch (op.prefix) {
    case kF2:
      MultiplyBytes<int8_t, int8_t>(p);
      break;
    case kF3:
      MultiplyBytes<int8_t, uint8_t>(p);
      break;
    case k66:
      MultiplyBytes<uint8_t, int8_t>(p);
      break;
    default:
      MultiplyBytes<uint8_t, uint8_t>(p);
  }
  return true;
}

void OnIllegalInstruction(int, siginfo_t*, void* context) {
  mcontext_t& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
  Instruction op;
  if (!Decode(machine, op) ||
      !(op.memory ? ExecuteMemory(op) : ExecuteRegisters(op))) {
    signal(SIGILL, SIG_DFL);  // met again at once, and fatal
    return;
  }
  machine.gregs[REG_RIP] = reinterpret_cast<greg_t>(op.end);
}

bool Install() {
  if (DetectIsa() < Isa::kAvx512 || DetectIsa() >= Isa::kAmx) return false;
  struct sigaction action = {};
  action.sa_sigaction = OnIllegalInstruction;
  // Nothing else is delivered meanwhile; SIGILL itself stays open, so that a
  // mistake in here ends the process.
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  SLUICE_CHECK(sigaction(SIGILL, &action, nullptr) == 0);
  return true;
}

}  // namespace

bool AmxIsEmulated() {
  static const bool installed = Install();
  return installed;
}

bool AmxRuns() { return DetectIsa() >= Isa::kAmx || AmxIsEmulated(); }

}  // namespace sluice::kernels
