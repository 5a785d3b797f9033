// Any bytes as the messages a router reads, from clients and from workers. The
// first byte picks the message. Refused with a status, or handled within the
// promises of the code behind it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/clock.h"
#include "proto/worker.pb.h"
#include "router/cluster/load_report.h"
#include "router/cluster/served_model.h"
#include "router/flow/answer.h"
#include "router/flow/prepare.h"
#include "router/route/policy.h"
#include "router/route/prefix_index.h"
#include "router/server/call_metadata.h"

namespace sluice::router {
namespace {

// Ids 0..25 are letters, 26 ends a text.
v1::ModelCard LetterCard() {
  v1::ModelCard card;
  card.set_model("m");
  card.set_model_digest(std::string(32, 'd'));
  card.set_max_context(256);
  v1::TokenizerCard& tokenizer = *card.mutable_tokenizer();
  tokenizer.set_kind("gguf");
  tokenizer.set_gguf_model("gpt2");
  tokenizer.set_gguf_pre("gpt-2");
  for (char c = 'a'; c <= 'z'; ++c) {
    tokenizer.add_tokens(std::string(1, c));
    tokenizer.add_token_types(1);
  }
  tokenizer.add_tokens("<end>");
  tokenizer.add_token_types(3);
  tokenizer.add_tokens("ab");
  tokenizer.add_token_types(1);
  tokenizer.add_merges("a b");
  card.add_eos_token_ids(26);
  card.set_vocab(28);
  card.set_chat_template(
      "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}");
  return card;
}

std::shared_ptr<const ServedModel> Model() {
  static const auto* model = new std::shared_ptr<const ServedModel>(
      *ServedModel::FromCard(LetterCard()));
  return *model;
}

void CheckError(const absl::Status& status) {
  SLUICE_CHECK(!status.message().empty());
  SLUICE_CHECK(status.code() == absl::StatusCode::kInvalidArgument ||
               status.code() == absl::StatusCode::kUnimplemented);
}

// Twice the same events give the same answer, and nothing beyond its end.
void FuzzAnswer(const PreparedRequest& prepared, absl::string_view bytes) {
  absl::StatusOr<Answer> answer =
      Answer::Create(std::min(prepared.num_choices, 4u), prepared.text);
  SLUICE_CHECK(answer.ok());
  uint32_t sent = 0;
  while (bytes.size() >= 2 && !answer->all_ended()) {
    const size_t size = std::min<size_t>(
        2 + static_cast<unsigned char>(bytes[0]), bytes.size());
    v1::WorkerEvent event;
    const bool parsed =
        event.ParseFromArray(bytes.data() + 1, static_cast<int>(size) - 1);
    bytes.remove_prefix(size);
    if (!parsed) continue;
    absl::StatusOr<Answer::Step> step = Answer::Step{};
    if (event.has_delta()) step = answer->Take(event.delta());
    if (event.has_choice_end()) step = answer->Take(event.choice_end());
    if (!step.ok()) {
      SLUICE_CHECK(step.status().code() == absl::StatusCode::kDataLoss);
      return;
    }
    if (step->delta.has_value()) {
      sent += static_cast<uint32_t>(step->delta->token_ids_size());
    }
  }
  SLUICE_CHECK(sent == answer->num_tokens());
}

void FuzzGenerate(absl::string_view bytes) {
  GenerateCall call;
  const size_t half = bytes.size() / 2;
  if (!call.request.ParseFromArray(bytes.data(), static_cast<int>(half)) &&
      !call.request.ParseFromArray(bytes.data(),
                                   static_cast<int>(bytes.size()))) {
    return;
  }
  if (absl::Status status = CheckCall(call); !status.ok()) {
    CheckError(status);
    return;
  }
  const absl::StatusOr<PreparedRequest> prepared =
      Prepare(call, Model(), SystemClock::Get());
  if (!prepared.ok()) {
    CheckError(prepared.status());
    return;
  }
  SLUICE_CHECK(prepared->prompt_ids.size() + prepared->sampling.max_tokens() <=
               Model()->max_context());
  FuzzAnswer(*prepared, bytes.substr(half));
}

void FuzzReport(absl::string_view bytes) {
  ClusterView view;
  PrefixIndex index(64);
  while (bytes.size() >= 2) {
    const size_t size = std::min<size_t>(
        2 + static_cast<unsigned char>(bytes[0]), bytes.size());
    v1::WorkerReport report;
    const bool parsed =
        report.ParseFromArray(bytes.data() + 1, static_cast<int>(size) - 1);
    bytes.remove_prefix(size);
    if (!parsed || !CheckReport(report).ok()) continue;
    WorkerView worker;
    worker.served = Model();
    worker.block_tokens = 4;
    ApplyReport(report, worker);
    index.Apply(worker.instance, {.cleared = report.events().cleared(),
                                  .stored = report.events().stored(),
                                  .removed = report.events().removed()});
    SLUICE_CHECK(index.num_blocks() <= 64);
    view.workers.push_back(std::move(worker));
  }
  if (view.workers.empty()) return;
  RouteRequest request{.model = view.workers[0].model,
                       .prompt_tokens = 9,
                       .reserve_tokens = 9,
                       .num_choices = 2};
  for (const char* name : {"prefix_affinity", "least_loaded"}) {
    const RouteDecision decision =
        (*MakeRoutePolicy(name, {}))->Choose(request, view);
    const bool chosen = decision.outcome == RouteDecision::Outcome::kChosen;
    SLUICE_CHECK(chosen == (decision.decode != nullptr));
    if (decision.prefill != nullptr) {
      SLUICE_CHECK(decision.prefill->numerics_id ==
                   decision.decode->numerics_id);
    }
  }
}

void FuzzCard(absl::string_view bytes) {
  v1::ModelCard card;
  if (!card.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return;
  }
  const auto model = ServedModel::FromCard(card);
  if (model.ok()) {
    SLUICE_CHECK((*model)->digest().size() == 32);
    (void)(*model)->Tokenize("ab", {});
  } else {
    SLUICE_CHECK(!model.status().message().empty());
  }
}

void FuzzHeaders(absl::string_view bytes) {
  GenerateCall call;
  const size_t colon = bytes.find(':');
  if (colon == absl::string_view::npos) return;
  const absl::Status status =
      ApplyHeader(bytes.substr(0, colon), bytes.substr(colon + 1), call);
  if (!status.ok()) CheckError(status);
  SLUICE_CHECK(call.timeout_ms.value_or(1) > 0);
}

void Fuzz(absl::string_view bytes) {
  if (bytes.empty()) return;
  const char kind = bytes[0];
  bytes.remove_prefix(1);
  switch (kind & 3) {
    case 0:
      return FuzzGenerate(bytes);
    case 1:
      return FuzzReport(bytes);
    case 2:
      return FuzzCard(bytes);
    default:
      return FuzzHeaders(bytes);
  }
}

}  // namespace
}  // namespace sluice::router

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::router::Fuzz({reinterpret_cast<const char*>(data), size});
  return 0;
}
