#include "worker/handoff/first_tokens.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/kv.pb.h"

namespace sluice::worker {

std::string EncodeFirstTokens(const FirstTokens& first) {
  v1::FirstTokens proto;
  for (const TokenId token : first.tokens) proto.add_token_ids(token);
  for (const TokenLogprobs& logprobs : first.logprobs) {
    v1::PositionLogprobs* position = proto.mutable_logprobs()->add_positions();
    position->mutable_chosen()->set_token_id(logprobs.token);
    position->mutable_chosen()->set_logprob(logprobs.logprob);
    for (const kernels::TopLogprob& top : logprobs.top) {
      v1::TokenLogprob* entry = position->add_top();
      entry->set_token_id(top.token);
      entry->set_logprob(top.logprob);
    }
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
    TokenLogprobs logprobs;
    logprobs.token = position.chosen().token_id();
    logprobs.logprob = position.chosen().logprob();
    for (const v1::TokenLogprob& top : position.top()) {
      logprobs.top.push_back({.token = static_cast<TokenId>(top.token_id()),
                              .logprob = top.logprob()});
    }
    first.logprobs.push_back(std::move(logprobs));
  }
  return first;
}

}  // namespace sluice::worker
