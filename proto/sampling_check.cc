#include "proto/sampling_check.h"

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/grpc_status.h"
#include "base/status_macros.h"

namespace sluice {
namespace {

constexpr uint32_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int kMaxBiases = 1024;
constexpr int kMaxStopTokens = 128;
constexpr int kMaxStops = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr uint32_t kMaxChoices = 128;
constexpr int32_t kMaxLogprobs = 20;

template <typename... Args>
absl::Status Invalid(const absl::FormatSpec<Args...>& format,
                     const Args&... args) {
  return absl::InvalidArgumentError(absl::StrFormat(format, args...));
}

// A NaN is in no range.
bool In(float value, float low, float high) {
  return value >= low && value <= high;
}

absl::Status CheckTemperature(const char* name, float value) {
  if (In(value, 0, 2)) return absl::OkStatus();
  return Invalid("%s must be finite and in [0, 2], got %g", name, value);
}

absl::Status CheckPenalties(const v1::SamplingParams& params) {
  if (params.has_repetition_penalty() &&
      !(std::isfinite(params.repetition_penalty()) &&
        params.repetition_penalty() > 0)) {
    return Invalid("repetition_penalty must be finite and positive, got %g",
                   params.repetition_penalty());
  }
  if (!In(params.frequency_penalty(), -2, 2)) {
    return Invalid("frequency_penalty must be in [-2, 2], got %g",
                   params.frequency_penalty());
  }
  if (!In(params.presence_penalty(), -2, 2)) {
    return Invalid("presence_penalty must be in [-2, 2], got %g",
                   params.presence_penalty());
  }
  return absl::OkStatus();
}

absl::Status CheckTruncation(const v1::SamplingParams& params) {
  RETURN_IF_ERROR(CheckTemperature("temperature", params.temperature()));
  RETURN_IF_ERROR(
      CheckTemperature("thinking_temperature", params.thinking_temperature()));
  // Unsigned on the wire: what does not fit an int32 was negative before.
  if (params.top_k() > kMaxInt32 && params.top_k() != UINT32_MAX) {
    return Invalid("top_k must be -1, 0 or positive, got %d",
                   static_cast<int32_t>(params.top_k()));
  }
  if (!In(params.top_p(), 0, 1)) {
    return Invalid("top_p must be in [0, 1], got %g", params.top_p());
  }
  if (!In(params.min_p(), 0, 1)) {
    return Invalid("min_p must be in [0, 1], got %g", params.min_p());
  }
  return absl::OkStatus();
}

absl::Status CheckBias(const v1::SamplingParams& params, uint32_t vocab) {
  if (params.logit_bias_size() > kMaxBiases) {
    return Invalid("logit_bias has %d entries, limit %d",
                   params.logit_bias_size(), kMaxBiases);
  }
  // A protobuf map has no order; the lowest wrong id is reported.
  const std::map<int32_t, float> biases(params.logit_bias().begin(),
                                        params.logit_bias().end());
  for (const auto& [token, bias] : biases) {
    if (token < 0 || static_cast<uint32_t>(token) >= vocab) {
      return Invalid("logit_bias token %d is outside [0, %d)", token, vocab);
    }
    if (!In(bias, -100, 100)) {
      return Invalid("logit_bias for token %d must be in [-100, 100], got %g",
                     token, bias);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLengths(const v1::SamplingParams& params,
                          uint32_t model_length) {
  if (params.has_max_tokens() &&
      (params.max_tokens() < 1 || params.max_tokens() > kMaxInt32)) {
    return Invalid("max_tokens must be positive, got %d",
                   static_cast<int32_t>(params.max_tokens()));
  }
  const uint32_t max_tokens =
      params.has_max_tokens() ? params.max_tokens() : model_length;
  if (params.min_tokens() > max_tokens) {
    return Invalid("min_tokens must be in [0, max_tokens=%d], got %d",
                   max_tokens, static_cast<int32_t>(params.min_tokens()));
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const v1::SamplingParams& params, uint32_t vocab) {
  if (params.stop_token_ids_size() > kMaxStopTokens) {
    return Invalid("stop_token_ids has %d entries, limit %d",
                   params.stop_token_ids_size(), kMaxStopTokens);
  }
  for (uint32_t token : params.stop_token_ids()) {
    if (token >= vocab) {
      return Invalid("stop token %d is outside [0, %d)", token, vocab);
    }
  }
  bool valid = params.stop_size() <= kMaxStops;
  for (const std::string& stop : params.stop()) {
    valid = valid && !stop.empty() && stop.size() <= kMaxStopBytes;
  }
  if (!valid) {
    return Invalid(
        "stop must be at most %d non-empty strings of at most %d "
        "bytes",
        kMaxStops, kMaxStopBytes);
  }
  return absl::OkStatus();
}

absl::Status CheckOutputs(const v1::SamplingParams& params) {
  if (params.has_n() && (params.n() < 1 || params.n() > kMaxChoices)) {
    return Invalid("n must be in [1, %d], got %d", kMaxChoices,
                   static_cast<int32_t>(params.n()));
  }
  if (params.logprobs() < 0 || params.logprobs() > kMaxLogprobs) {
    return Invalid("logprobs must be in [0, %d], got %d", kMaxLogprobs,
                   params.logprobs());
  }
  if (params.prompt_logprobs() < 0 || params.prompt_logprobs() > kMaxLogprobs) {
    return Invalid("prompt_logprobs must be in [0, %d], got %d", kMaxLogprobs,
                   params.prompt_logprobs());
  }
  return absl::OkStatus();
}

absl::Status Unsupported(const char* name) {
  return WithReason(
      absl::UnimplementedError(absl::StrCat(name, " is not supported")),
      "UNSUPPORTED_PARAMETER");
}

const char* ConstraintName(const v1::SamplingParams& params) {
  switch (params.constraint_case()) {
    case v1::SamplingParams::kJsonSchema:
      return "json_schema";
    case v1::SamplingParams::kRegex:
      return "regex";
    case v1::SamplingParams::kGrammar:
      return "grammar";
    case v1::SamplingParams::kStructuralTag:
      return "structural_tag";
    case v1::SamplingParams::kJsonObject:
      return "json_object";
    case v1::SamplingParams::kChoice:
      return "choice";
    case v1::SamplingParams::CONSTRAINT_NOT_SET:
      break;
  }
  return nullptr;
}

}  // namespace

absl::Status CheckSampling(const v1::SamplingParams& params,
                           const SamplingBounds& bounds) {
  RETURN_IF_ERROR(CheckTruncation(params));
  RETURN_IF_ERROR(CheckPenalties(params));
  RETURN_IF_ERROR(CheckBias(params, bounds.vocab));
  RETURN_IF_ERROR(CheckLengths(params, bounds.model_length));
  RETURN_IF_ERROR(CheckStops(params, bounds.vocab));
  RETURN_IF_ERROR(CheckOutputs(params));
  if (params.has_thinking_temperature()) {
    return Unsupported("thinking_temperature");
  }
  if (const char* constraint = ConstraintName(params)) {
    return Unsupported(constraint);
  }
  return absl::OkStatus();
}

}  // namespace sluice
