#include "tests/worker/engine/scheduler_rig.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sha256.h"

namespace sluice::worker {
namespace {

constexpr uint32_t kVocab = 1000;
constexpr TokenId kEos = 2;

}  // namespace

std::vector<TokenId> Tokens(uint32_t count, uint32_t seed) {
  std::vector<TokenId> tokens;
  uint32_t state = seed * 2654435761u + 12345;
  for (uint32_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<TokenId>(3 + (state >> 8) % (kVocab - 3)));
  }
  return tokens;
}

SchedulerRig::SchedulerRig(const Options& options)
    : model({.num_blocks = options.usable_blocks + 1,
             .block_tokens = options.block_tokens,
             .vocab = kVocab,
             .eos = kEos,
             .eos_in = options.eos_in}) {
  auto created = Scheduler::Create({
      .limits = {.max_batch_seqs = options.max_batch_seqs,
                 .max_batch_tokens = options.max_batch_tokens,
                 .chunk_tokens = options.chunk_tokens,
                 .block_tokens = options.block_tokens},
      .num_blocks = options.usable_blocks + 1,
      .model_length = options.model_length,
      .vocab = kVocab,
      .eos_ids = {kEos},
      .kv_fingerprint = ToBytes(Sha256Of("fake")),
      .max_waiting_seqs = options.max_waiting_seqs,
      .max_waiting_tokens = options.max_waiting_tokens,
      .aging_ms = options.aging_ms,
  });
  if (!created.ok())
    std::fprintf(stderr, "%s\n", created.status().ToString().c_str());
  SLUICE_CHECK(created.ok());
  scheduler = *std::move(created);
}

RequestKey SchedulerRig::Submit(Request request) {
  if (request.key == 0) request.key = next_key_++;
  const RequestKey key = request.key;
  if (request.id.empty()) request.id = absl::StrCat("r", key);
  Stream& stream = streams[key];
  stream.tokens.resize(request.sampling.n);
  stream.endings.resize(request.sampling.n);
  for (size_t c = 0; c < std::min(request.replay.size(), stream.tokens.size());
       ++c) {
    stream.tokens[c] = request.replay[c];
  }
  requests[key] = request;
  scheduler->Submit(std::move(request), now_us, 250);
  Settle();
  return key;
}

RequestKey SchedulerRig::Submit(std::vector<TokenId> prompt, int32_t max_tokens,
                                int32_t priority) {
  Request request;
  request.prompt = std::move(prompt);
  request.sampling.max_tokens = max_tokens;
  request.priority = priority;
  return Submit(std::move(request));
}

CommittedStep SchedulerRig::Commit(const SchedulePlan& plan) {
  CommittedStep step = scheduler->Commit(plan, now_us);
  Settle();
  return step;
}

void SchedulerRig::Retire(const StepPlan& plan) {
  scheduler->Retire(plan, model.Run(plan), now_us);
  Settle();
}

void SchedulerRig::Fail(const StepPlan& plan, const absl::Status& status) {
  scheduler->Retire(plan, status, now_us);
  Settle();
}

bool SchedulerRig::Step() {
  const SchedulePlan plan = Plan();
  if (plan.empty()) return false;
  const CommittedStep step = Commit(plan);
  if (!step.plan->rows.empty()) Retire(*step.plan);
  return true;
}

bool SchedulerRig::StepAhead() {
  bool did = !launched.empty();
  for (int i = launched.empty() ? 0 : 1; i < 2; ++i) {
    const SchedulePlan plan = Plan();
    if (plan.empty() || (plan.alone && !launched.empty())) break;
    const CommittedStep step = Commit(plan);
    did = true;
    if (step.plan->rows.empty()) break;
    launched.push_back(step.plan);
    // The hand-over hears of a chunk's end before the next step.
    if (!step.chunks.empty()) break;
  }
  if (launched.empty()) return did;
  const std::shared_ptr<const StepPlan> oldest = launched.front();
  launched.pop_front();
  Retire(*oldest);
  return true;
}

void SchedulerRig::RunAll() {
  for (int steps = 0; Step(); ++steps) SLUICE_CHECK(steps < 100000);
}

CancelState SchedulerRig::Cancel(RequestKey key, const absl::Status& cause) {
  const CancelState state = scheduler->Cancel(key, cause, now_us);
  Settle();
  return state;
}

void SchedulerRig::CompleteReservations() {
  for (const auto& [key, reservation] : std::exchange(reservations, {})) {
    const Request& request = requests.at(key);
    std::vector<TokenId> tokens = request.prompt;
    if (!request.replay.empty()) {
      tokens.insert(tokens.end(), request.replay[0].begin(),
                    request.replay[0].end());
    }
    model.Receive(tokens, reservation.skip_tokens, reservation.blocks);
    FirstTokens first;
    for (int32_t c = 0; c < request.sampling.n; ++c) {
      // Only choice 0 keeps the seed; the others' seeds do not matter here.
      first.tokens.push_back(
          model.Next(request.sampling.seed + static_cast<uint64_t>(c), tokens,
                     static_cast<uint32_t>(request.prompt.size())));
    }
    scheduler->RemoteReady(key, std::move(first), now_us);
    Settle();
  }
}

void SchedulerRig::Settle() {
  for (const SchedulerEvent& event : scheduler->TakeEvents()) {
    std::visit([this](const auto& e) { On(e); }, event);
  }
  const absl::Status status = scheduler->CheckInvariants();
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  }
  SLUICE_CHECK(status.ok());
}

std::string SchedulerRig::Rows(const StepPlan& plan) {
  std::string text;
  for (const PlanRow& row : plan.rows) {
    absl::StrAppend(&text, text.empty() ? "" : " ", row.seq, "[", row.kv_before,
                    ",", row.kv_before + row.tokens.size(), ")");
  }
  return text;
}

std::string SchedulerRig::StepRows() {
  const CommittedStep step = Commit(Plan());
  std::string rows = Rows(*step.plan);
  if (!step.plan->rows.empty()) Retire(*step.plan);
  return rows;
}

Stream& SchedulerRig::Open(RequestKey key) {
  Stream& stream = streams.at(key);
  SLUICE_CHECK(!stream.status.has_value());  // nothing after the end
  return stream;
}

void SchedulerRig::On(const StartedEvent& event) {
  Stream& stream = Open(event.key);
  SLUICE_CHECK(!stream.started);
  stream.started = true;
  stream.cached = event.cached_tokens;
}

void SchedulerRig::On(const PromptLogprobsEvent& event) {
  Stream& stream = Open(event.key);
  SLUICE_CHECK(stream.started && !stream.prompt_logprobs.has_value());
  stream.prompt_logprobs = event.positions;
}

void SchedulerRig::On(const TokensEvent& event) {
  Stream& stream = Open(event.key);
  std::vector<TokenId>& tokens = stream.tokens.at(event.run.choice);
  SLUICE_CHECK(stream.started && !stream.endings[event.run.choice]);
  SLUICE_CHECK(event.run.first_position == tokens.size());
  const bool logprobs = requests.at(event.key).sampling.logprobs >= 0;
  SLUICE_CHECK(event.run.logprobs.size() ==
               (logprobs ? event.run.tokens.size() : 0));
  tokens.insert(tokens.end(), event.run.tokens.begin(), event.run.tokens.end());
}

void SchedulerRig::On(const PreemptedEvent& event) {
  ++Open(event.key).preempted;
}

void SchedulerRig::On(const ChoiceEndedEvent& event) {
  Stream& stream = Open(event.key);
  SLUICE_CHECK(!stream.endings.at(event.ending.choice).has_value());
  SLUICE_CHECK(event.ending.positions ==
               stream.tokens[event.ending.choice].size());
  stream.endings[event.ending.choice] = event.ending;
}

void SchedulerRig::On(const FinishedEvent& event) {
  Stream& stream = Open(event.key);
  stream.status = event.status;
  stream.usage = event.usage;
}

void SchedulerRig::On(const ReservedEvent& event) {
  SLUICE_CHECK(
      reservations.emplace(event.reservation.key, event.reservation).second);
}

void SchedulerRig::On(const WithdrawnEvent& event) {
  withdrawn.push_back(event.key);
}

void SchedulerRig::On(const ChunkDoneEvent& event) {
  chunks_done.emplace_back(event.key, event.step);
}

void SchedulerRig::On(const FirstTokensEvent& event) {
  SLUICE_CHECK(first_tokens.emplace(event.key, event.first).second);
}

void SchedulerRig::On(const PrefillFailedEvent& event) {
  SLUICE_CHECK(prefill_failed.emplace(event.key, event.cause).second);
}

std::vector<TokenId> Expected(const SchedulerRig& rig, const Request& request,
                              uint64_t seed) {
  std::vector<TokenId> tokens = request.prompt;
  const auto prompt = static_cast<uint32_t>(tokens.size());
  while (tokens.size() - prompt <
         static_cast<size_t>(request.sampling.max_tokens)) {
    tokens.push_back(rig.model.Next(seed, tokens, prompt));
  }
  return {tokens.begin() + prompt, tokens.end()};
}

}  // namespace sluice::worker
