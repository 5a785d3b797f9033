#include "worker/handoff/logprobs_proto.h"

namespace sluice::worker {

void ToProto(const TokenLogprobs& logprobs, v1::PositionLogprobs* proto) {
  proto->mutable_chosen()->set_token_id(logprobs.token);
  proto->mutable_chosen()->set_logprob(logprobs.logprob);
  for (const kernels::TopLogprob& top : logprobs.top) {
    v1::TokenLogprob* entry = proto->add_top();
    entry->set_token_id(top.token);
    entry->set_logprob(top.logprob);
  }
}

TokenLogprobs FromProto(const v1::PositionLogprobs& proto) {
  TokenLogprobs logprobs;
  logprobs.token = static_cast<TokenId>(proto.chosen().token_id());
  logprobs.logprob = proto.chosen().logprob();
  for (const v1::TokenLogprob& top : proto.top()) {
    logprobs.top.push_back({.token = static_cast<TokenId>(top.token_id()),
                            .logprob = top.logprob()});
  }
  return logprobs;
}

}  // namespace sluice::worker
