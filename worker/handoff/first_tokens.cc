#include "worker/handoff/first_tokens.h"

#include "absl/strings/str_cat.h"
#include "proto/kv.pb.h"
#include "worker/handoff/logprobs_proto.h"

namespace sluice::worker {

std::string EncodeFirstTokens(const FirstTokens& first) {
  v1::FirstTokens proto;
  for (const TokenId token : first.tokens) proto.add_token_ids(token);
  for (const TokenLogprobs& logprobs : first.logprobs) {
    ToProto(logprobs, proto.mutable_logprobs()->add_positions());
  }
  return proto.SerializeAsString();
}

absl::StatusOr<FirstTokens> DecodeFirstTokens(absl::string_view bytes) {
  v1::FirstTokens proto;
  if (!proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
      proto.token_ids_size() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("malformed first tokens of ", bytes.size(), " bytes"));
  }
  const int num_logprobs = proto.logprobs().positions_size();
  if (num_logprobs != 0 && num_logprobs != proto.token_ids_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("first tokens hold ", num_logprobs, " logprobs for ",
                     proto.token_ids_size(), " tokens"));
  }
  FirstTokens first;
  first.tokens.assign(proto.token_ids().begin(), proto.token_ids().end());
  for (const v1::PositionLogprobs& position : proto.logprobs().positions()) {
    first.logprobs.push_back(FromProto(position));
  }
  return first;
}

}  // namespace sluice::worker
