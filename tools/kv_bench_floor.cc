#include "tools/kv_bench_floor.h"

#include <immintrin.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

namespace sluice::kv_bench {
namespace {

__attribute__((target("avx512f"))) void CopyBlock512(std::byte* to,
                                                     const std::byte* from,
                                                     uint64_t size) {
  for (uint64_t i = 0; i < size; i += 128) {
    const __m512i a = _mm512_loadu_si512(from + i);
    const __m512i b = _mm512_loadu_si512(from + i + 64);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), a);
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i + 64), b);
  }
}

__attribute__((target("avx2"))) void CopyBlock256(std::byte* to,
                                                  const std::byte* from,
                                                  uint64_t size) {
  for (uint64_t i = 0; i < size; i += 64) {
    const __m256i a =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    const __m256i b =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), a);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i + 32), b);
  }
}

void CopyNonTemporal(const FloorArgs& args) {
  const bool wide = __builtin_cpu_supports("avx512f");
  for (const auto& [from, to] : *args.blocks) {
    if (wide) {
      CopyBlock512(args.to + to, args.from + from, args.block_bytes);
    } else {
      CopyBlock256(args.to + to, args.from + from, args.block_bytes);
    }
  }
  _mm_sfence();
}

void CopyPlain(const FloorArgs& args) {
  for (const auto& [from, to] : *args.blocks) {
    std::memcpy(args.to + to, args.from + from, args.block_bytes);
  }
}

bool ReadOther(const FloorArgs& args) {
  constexpr size_t kBatch = 512;
  iovec local[kBatch];
  iovec remote[kBatch];
  for (size_t i = 0; i < args.blocks->size(); i += kBatch) {
    const size_t count = std::min(kBatch, args.blocks->size() - i);
    for (size_t k = 0; k < count; ++k) {
      const auto& [from, to] = (*args.blocks)[i + k];
      local[k] = {args.to + to, args.block_bytes};
      remote[k] = {reinterpret_cast<void*>(args.source_base + from),
                   args.block_bytes};
    }
    const ssize_t got =
        process_vm_readv(args.source, local, count, remote, count, 0);
    if (got != static_cast<ssize_t>(count * args.block_bytes)) return false;
  }
  return true;
}

}  // namespace

std::vector<std::string> FloorWays() { return {"nt", "memcpy", "cma"}; }

bool RunFloor(const std::string& way, const FloorArgs& args) {
  if (way == "nt") {
    CopyNonTemporal(args);
    return true;
  }
  if (way == "memcpy") {
    CopyPlain(args);
    return true;
  }
  return ReadOther(args);
}

}  // namespace sluice::kv_bench
