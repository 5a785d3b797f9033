#include "worker/model/model_config.h"

#include <cmath>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sluice::worker {

absl::Status CheckConfig(const ModelConfig& c) {
  struct Range {
    const char* name;
    int64_t value;
    int64_t max;
  };
  const Range ranges[] = {
      {"vocab", c.vocab, int64_t{1} << 22},
      {"hidden", c.hidden, int64_t{1} << 18},
      {"layers", c.layers, 4096},
      {"heads", c.heads, 4096},
      {"kv_heads", c.kv_heads, 4096},
      {"head_dim", c.head_dim, 512},
      {"ffn", c.ffn, int64_t{1} << 20},
      {"max_positions", c.max_positions, int64_t{1} << 30},
  };
  for (const Range& range : ranges) {
    if (range.value < 1 || range.value > range.max) {
      return absl::InvalidArgumentError(
          absl::StrCat("model configuration: ", range.name, " must be in [1, ",
                       range.max, "], got ", range.value));
    }
  }
  if (c.heads % c.kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model configuration: ", c.heads,
                     " heads are no multiple of ", c.kv_heads, " kv heads"));
  }
  if (c.head_dim % 8 != 0) {
    return absl::UnimplementedError(absl::StrCat(
        "model configuration: head_dim must be a multiple of 8, got ",
        c.head_dim));
  }
  if (c.rope.rot < 2 || c.rope.rot % 2 != 0 || c.rope.rot > c.head_dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model configuration: rotated dimensions must be even and at most ",
        c.head_dim, ", got ", c.rope.rot));
  }
  const double positives[] = {c.norm_epsilon,         c.rope.base,
                              c.rope.factor,          c.rope.attention_factor,
                              c.rope.low_freq_factor, c.rope.high_freq_factor};
  const char* names[] = {"norm epsilon",         "rope base",
                         "rope factor",          "rope attention factor",
                         "rope low freq factor", "rope high freq factor"};
  for (size_t i = 0; i < std::size(positives); ++i) {
    if (!std::isfinite(positives[i]) || positives[i] <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("model configuration: ", names[i],
                       " must be finite and positive, got ", positives[i]));
    }
  }
  if (c.rope.base <= 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model configuration: rope base must be above 1, got ", c.rope.base));
  }
  return absl::OkStatus();
}

}  // namespace sluice::worker
