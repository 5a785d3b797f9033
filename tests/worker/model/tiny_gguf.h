#ifndef TESTS_WORKER_MODEL_TINY_GGUF_H_
#define TESTS_WORKER_MODEL_TINY_GGUF_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/worker/model/gguf_writer.h"

namespace sluice::worker {

// How to turn a tiny safetensors model into a GGUF file as converters do.
struct TinyGgufOptions {
  std::string family;           // folder under tests/golden/tiny
  bool permute_q_and_k = true;  // arch llama: rows of rotated pairs adjacent
  // GGUF type of a matrix: 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 6 Q5_0, 7 Q5_1,
  // 8 Q8_0, 30 BF16.
  // Vectors are always F32.
  std::function<uint32_t(const std::string& name)> type_of;
  // Changes the keys before they are written; may be empty.
  std::function<void(GgufWriter*)> more_keys;
  bool write_rope_base = true;
  bool write_key_length = true;
};

// The file's bytes.
std::string TinyGguf(const TinyGgufOptions& options);

// Values as GGUF blocks of `type`; rows of `k` values.
std::string Quantised(const std::vector<float>& values, uint32_t type);

}  // namespace sluice::worker

#endif  // TESTS_WORKER_MODEL_TINY_GGUF_H_
