#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "kernels/op_table.h"

namespace sluice::kernels {
namespace {

struct CpuidLeaf {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
};

CpuidLeaf ReadCpuid(uint32_t leaf, uint32_t subleaf = 0) {
  CpuidLeaf result;
  // Zeros when the leaf does not exist.
  __get_cpuid_count(leaf, subleaf, &result.eax, &result.ebx, &result.ecx,
                    &result.edx);
  return result;
}

// Register state the operating system saves; call only with OSXSAVE.
uint64_t ReadXcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

constexpr bool HasAll(uint64_t bits, uint64_t wanted) {
  return (bits & wanted) == wanted;
}

// Intel SDM volume 2, CPUID; AMD APM volume 3 appendix E gives the same bits.
constexpr uint32_t kLeaf1EcxFma = 1u << 12;
constexpr uint32_t kLeaf1EcxOsxsave = 1u << 27;
constexpr uint32_t kLeaf1EcxAvx = 1u << 28;
constexpr uint32_t kLeaf1EcxF16c = 1u << 29;
constexpr uint32_t kLeaf7EbxAvx2 = 1u << 5;
constexpr uint32_t kLeaf7EbxAvx512F = 1u << 16;
constexpr uint32_t kLeaf7EbxAvx512Dq = 1u << 17;
constexpr uint32_t kLeaf7EbxAvx512Bw = 1u << 30;
constexpr uint32_t kLeaf7EbxAvx512Vl = 1u << 31;
constexpr uint32_t kLeaf7EcxAvx512Vnni = 1u << 11;
constexpr uint32_t kLeaf7Sub1EaxAvx512Bf16 = 1u << 5;
constexpr uint64_t kXcr0Ymm = 0x6;
constexpr uint64_t kXcr0Zmm = 0xe6;
constexpr uint32_t kLeaf7EdxAmxBf16 = 1u << 22;
constexpr uint32_t kLeaf7EdxAmxTile = 1u << 24;
constexpr uint32_t kLeaf7EdxAmxInt8 = 1u << 25;
constexpr uint64_t kXcr0Tiles = 0x60000;  // configuration and contents

// Linux keeps the 8 KiB of a thread's tiles off until its process asks for
// them; before 5.16 the call does not exist.
bool SystemGrantsTiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileContents = 18;           // the XCR0 bit
  return syscall(SYS_arch_prctl, kRequestPermission, kTileContents) == 0;
}

Isa Detect() {
  const CpuidLeaf one = ReadCpuid(1);
  const CpuidLeaf seven = ReadCpuid(7);
  if (!HasAll(one.ecx,
              kLeaf1EcxFma | kLeaf1EcxOsxsave | kLeaf1EcxAvx | kLeaf1EcxF16c) ||
      !HasAll(seven.ebx, kLeaf7EbxAvx2) || !HasAll(ReadXcr0(), kXcr0Ymm)) {
    return Isa::kPortable;
  }
  if (!HasAll(seven.ebx, kLeaf7EbxAvx512F | kLeaf7EbxAvx512Dq |
                             kLeaf7EbxAvx512Bw | kLeaf7EbxAvx512Vl) ||
      !HasAll(seven.ecx, kLeaf7EcxAvx512Vnni) ||
      !HasAll(ReadXcr0(), kXcr0Zmm)) {
    return Isa::kAvx2;
  }
  if (!HasAll(ReadCpuid(7, 1).eax, kLeaf7Sub1EaxAvx512Bf16)) {
    return Isa::kAvx512;
  }
  if (!HasAll(seven.edx,
              kLeaf7EdxAmxTile | kLeaf7EdxAmxInt8 | kLeaf7EdxAmxBf16) ||
      !HasAll(ReadXcr0(), kXcr0Tiles) || !SystemGrantsTiles()) {
    return Isa::kAvx512Bf16;
  }
  return Isa::kAmx;
}

}  // namespace

absl::string_view Name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmx:
      return "amx";
  }
  return "?";
}

absl::StatusOr<Isa> ParseIsa(absl::string_view name) {
  for (Isa isa : kAllIsas) {
    if (name == Name(isa)) return isa;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("instruction set '", name,
                   "' is not one of portable, avx2, avx512, avx512_bf16, "
                   "amx"));
}

Isa DetectIsa() {
  static const Isa isa = Detect();
  return isa;
}

}  // namespace sluice::kernels
