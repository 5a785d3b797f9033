#include "worker/server/submit_check.h"

#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "proto/sampling_check.h"
#include "worker/sampling/params.h"

namespace sluice::worker {
namespace {

constexpr size_t kMaxSaltBytes = 256;
constexpr size_t kMaxRequestIdBytes = 256;

absl::Status CheckOrigin(const v1::Origin& origin,
                         const v1::Identity& identity) {
  if (origin.model_digest() != identity.model_digest()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "model ", absl::BytesToHexString(identity.model_digest().substr(0, 4)),
        " cannot continue ",
        absl::BytesToHexString(origin.model_digest().substr(0, 4))));
  }
  if (origin.numerics_id() != identity.numerics_id() &&
      !origin.allow_numerics_change()) {
    return absl::FailedPreconditionError(
        absl::StrCat("numerics ", identity.numerics_id(), " cannot continue ",
                     origin.numerics_id()));
  }
  return absl::OkStatus();
}

absl::StatusOr<RequestPhase> PhaseFor(const v1::SubmitRequest& submit,
                                      v1::Role role) {
  switch (submit.phase()) {
    case v1::SubmitRequest::PHASE_BOTH:
      // A decode worker computes prompts too when no prefill worker is left.
      if (role != v1::PREFILL) return RequestPhase::kBoth;
      break;
    case v1::SubmitRequest::PHASE_PREFILL:
      if (!submit.has_ticket()) {
        return absl::InvalidArgumentError("phase PREFILL needs a ticket");
      }
      if (role == v1::PREFILL) return RequestPhase::kPrefill;
      break;
    case v1::SubmitRequest::PHASE_DECODE:
      if (submit.source().empty()) {
        return absl::InvalidArgumentError("phase DECODE needs a source");
      }
      if (role == v1::DECODE) return RequestPhase::kDecode;
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("phase ", static_cast<int>(submit.phase()),
                       " is not one of PREFILL, DECODE, BOTH"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("a ", v1::Role_Name(role), " worker does not serve ",
                   v1::SubmitRequest::Phase_Name(submit.phase())));
}

absl::Status CheckTokens(const google::protobuf::RepeatedField<uint32_t>& ids,
                         uint32_t vocab, const char* what) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= vocab) {
      return absl::InvalidArgumentError(absl::StrCat(
          what, " ", ids[i], " at ", i, " is outside [0, ", vocab, ")"));
    }
  }
  return absl::OkStatus();
}

absl::Status Unsupported(const std::string& field) {
  return WithReason(
      absl::UnimplementedError(absl::StrCat(field, " is not supported")),
      "UNSUPPORTED_PARAMETER");
}

// What the API defines and this build has no way to honour.
absl::Status CheckSupported(const v1::SubmitRequest& submit) {
  const v1::SamplingParams& sampling = submit.sampling();
  if (sampling.constraint_case() != v1::SamplingParams::CONSTRAINT_NOT_SET) {
    return Unsupported("sampling.constraint");
  }
  if (sampling.has_thinking_temperature()) {
    return Unsupported("sampling.thinking_temperature");
  }
  if (submit.speculation().mode() == v1::Speculation::ON) {
    return Unsupported("speculation.mode");
  }
  if (!submit.speculation().rule().empty()) {
    return Unsupported("speculation.rule");
  }
  return absl::OkStatus();
}

absl::Status AddReplay(const v1::SubmitRequest& submit, uint32_t vocab,
                       Request& request) {
  if (submit.replay_size() == 0) return absl::OkStatus();
  const size_t n = static_cast<size_t>(request.sampling.n);
  request.replay.resize(n);
  request.replay_ended.resize(n, false);
  for (const v1::ChoiceReplay& replay : submit.replay()) {
    if (replay.choice() >= n) {
      return absl::InvalidArgumentError(absl::StrCat(
          "replay of choice ", replay.choice(), " of ", n, " choices"));
    }
    RETURN_IF_ERROR(CheckTokens(replay.token_ids(), vocab, "replayed token"));
    request.replay[replay.choice()].assign(replay.token_ids().begin(),
                                           replay.token_ids().end());
    request.replay_ended[replay.choice()] = replay.ended();
  }
  return absl::OkStatus();
}

absl::Status CheckHeader(const v1::SubmitRequest& submit) {
  if (submit.request_id().empty() ||
      submit.request_id().size() > kMaxRequestIdBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("request_id has ", submit.request_id().size(),
                     " bytes, want 1..", kMaxRequestIdBytes));
  }
  if (submit.attempt() == 0) {
    return absl::InvalidArgumentError("attempt must be at least 1, got 0");
  }
  if (submit.cache_salt().size() > kMaxSaltBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("cache_salt has ", submit.cache_salt().size(),
                     " bytes, limit ", kMaxSaltBytes));
  }
  if (submit.priority() < -100 || submit.priority() > 100) {
    return absl::InvalidArgumentError(absl::StrCat(
        "priority must be in [-100, 100], got ", submit.priority()));
  }
  if (submit.prompt_ids().empty()) {
    return absl::InvalidArgumentError("prompt must hold at least one token");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Request> CheckSubmit(const v1::SubmitRequest& submit,
                                    const WorkerFacts& facts,
                                    const Clock& clock) {
  RETURN_IF_ERROR(CheckHeader(submit));
  RETURN_IF_ERROR(
      CheckTokens(submit.prompt_ids(), facts.vocab, "prompt token"));
  RETURN_IF_ERROR(CheckSupported(submit));
  if (submit.has_origin()) {
    RETURN_IF_ERROR(CheckOrigin(submit.origin(), facts.identity));
  }
  Request request;
  ASSIGN_OR_RETURN(request.phase, PhaseFor(submit, facts.identity.role()));
  request.id = submit.request_id();
  request.prompt.assign(submit.prompt_ids().begin(), submit.prompt_ids().end());
  RETURN_IF_ERROR(CheckSampling(
      submit.sampling(),
      {.vocab = facts.vocab, .model_length = facts.model_length}));
  request.sampling = MakeSamplingParams(
      submit.sampling(), submit.seed(),
      {.prompt_tokens = static_cast<uint32_t>(request.prompt.size()),
       .model_length = facts.model_length});
  RETURN_IF_ERROR(AddReplay(submit, facts.vocab, request));
  request.cache_salt = submit.cache_salt();
  request.priority = submit.priority();
  if (submit.deadline_unix_us() != 0) {
    const int64_t remaining_us =
        static_cast<int64_t>(submit.deadline_unix_us()) - clock.UnixMicros();
    if (remaining_us <= 0) {
      return absl::DeadlineExceededError("the deadline has passed");
    }
    request.deadline_us = clock.NowMicros() + remaining_us;
  }
  return request;
}

size_t TokensToMove(const Request& request) {
  for (size_t c = 0; c < request.replay.size(); ++c) {
    if (c < request.replay_ended.size() && request.replay_ended[c]) continue;
    return request.prompt.size() + request.replay[c].size();
  }
  return request.prompt.size();
}

}  // namespace sluice::worker
