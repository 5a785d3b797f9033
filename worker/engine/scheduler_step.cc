// Scheduler::Commit and Retire: the two writers of a step.
#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/scheduler_state.h"
#include "worker/sampling/choice_seed.h"

namespace sluice::worker {

// ---- Commit

CommittedStep Scheduler::Commit(const SchedulePlan& plan, int64_t now_us) {
  for (SequenceKey key : plan.preempted) Preempt(*choices_.at(key), now_us);
  // Every match is held before any allocation could evict it.
  for (const SchedulePlan::Admission& admission : plan.admissions) {
    Admit(admission, now_us);
  }
  auto step = std::make_shared<StepPlan>();
  CommittedStep out;
  step->rows.reserve(plan.rows.size() + plan.admissions.size());
  for (const SchedulePlan::Row& row : plan.rows) {
    AddRow(*choices_.at(row.seq), row.end, *step, out);
  }
  for (const SchedulePlan::Admission& admission : plan.admissions) {
    Choice& choice = *choices_.at(admission.seq);
    if (admission.end == 0) {
      Reserve(choice, admission);
    } else {
      AddRow(choice, admission.end, *step, out);
    }
  }
  if (!step->rows.empty()) {
    step->step = next_step_++;
    step->ends = std::exchange(ended_on_executor_, {});
    for (PromptChunk& chunk : out.chunks) chunk.step = step->step;
  }
  out.plan = std::move(step);
  return out;
}

void Scheduler::Preempt(Choice& choice, int64_t now_us) {
  if (choice.seq.in_flight() > 0) {
    choice.preempt_pending = true;
    return;
  }
  choice.preempt_pending = false;
  RemoveFromQueues(choice, now_us);
  ReleaseBlocks(choice);
  choice.seq.Preempt();
  PushWaiting(choice, now_us);
  events_.push_back(PreemptedEvent{choice.entry->request.key});
}

void Scheduler::Admit(const SchedulePlan::Admission& admission,
                      int64_t now_us) {
  Choice& choice = *choices_.at(admission.seq);
  Entry& entry = *choice.entry;
  RemoveFromQueues(choice, now_us);
  for (BlockId block : admission.matched) {
    allocator_.Ref(block);
    choice.table.push_back(block);
  }
  choice.committed_blocks = static_cast<uint32_t>(admission.matched.size());
  choice.admission = next_admission_++;
  const uint32_t skip = choice.committed_blocks * block_tokens_;
  if (!entry.started) {
    entry.started = true;
    entry.cached_tokens =
        std::min(skip, static_cast<uint32_t>(entry.request.prompt.size()));
    events_.push_back(StartedEvent{entry.request.key, entry.cached_tokens,
                                   choice.chain.has_value()});
  }
  if (admission.end != 0) {
    choice.seq.SkipTo(skip);
    choice.phase = Phase::kPartial;
    if (admission.end < choice.seq.length()) partial_ = &choice;
  }
  choice.admitted_before = true;
}

void Scheduler::Reserve(Choice& choice,
                        const SchedulePlan::Admission& admission) {
  const uint32_t tokens = choice.seq.length();
  const auto have = static_cast<uint32_t>(choice.table.size());
  const absl::Status status = allocator_.Allocate(
      BlocksFor(tokens, block_tokens_) - have, choice.table);
  SLUICE_CHECK(status.ok());
  choice.phase = Phase::kRemote;
  ++remote_seqs_;
  RemoteReservation reservation;
  reservation.key = choice.entry->request.key;
  reservation.blocks = choice.table;
  reservation.skip_tokens =
      static_cast<uint32_t>(admission.matched.size()) * block_tokens_;
  reservation.num_tokens = tokens;
  events_.push_back(ReservedEvent{std::move(reservation)});
}

void Scheduler::AddRow(Choice& choice, uint32_t end, StepPlan& step,
                       CommittedStep& out) {
  Entry& entry = *choice.entry;
  const uint32_t begin = choice.seq.launched_entries();
  const auto have = static_cast<uint32_t>(choice.table.size());
  const uint32_t written = begin / block_tokens_;
  if (written < have && allocator_.refs(choice.table[written]) > 1) {
    std::vector<BlockId> copy;
    SLUICE_CHECK(allocator_.Allocate(1, copy).ok());
    step.copies.push_back({choice.table[written], copy[0]});
    allocator_.Unref(choice.table[written]);
    choice.table[written] = copy[0];
  }
  SLUICE_CHECK(
      allocator_.Allocate(BlocksFor(end, block_tokens_) - have, choice.table)
          .ok());

  PlanRow row;
  row.seq = choice.seq.key();
  row.kv_before = begin;
  const auto& tokens = choice.seq.tokens();
  if (begin == tokens.size()) {
    row.tokens = {kDrawnBefore};
  } else {
    row.tokens.assign(tokens.begin() + begin, tokens.begin() + end);
  }
  row.blocks = choice.table;
  const bool last = end >= choice.seq.length();
  for (Choice* sampled : choice.group) {
    AddStart(*sampled, step);
    if (last) row.samples.push_back(sampled->seq.key());
  }
  if (entry.wants_prompt_logprobs() && begin < choice.seq.prompt_tokens()) {
    row.prompt_logprobs = entry.sampling->prompt_logprobs;
  }
  if (entry.request.phase == RequestPhase::kPrefill) {
    out.chunks.push_back({.key = entry.request.key,
                          .t0 = begin,
                          .t1 = end,
                          .num_tokens = choice.seq.length(),
                          .blocks = choice.table});
  }
  step.rows.push_back(std::move(row));

  choice.seq.LaunchTo(end);
  if (choice.phase == Phase::kPartial && last) {
    if (partial_ == &choice) partial_ = nullptr;
    PushRunning(choice);
  }
}

void Scheduler::AddStart(Choice& choice, StepPlan& step) {
  if (choice.on_executor) return;
  choice.on_executor = true;
  SequenceStart start;
  start.seq = choice.seq.key();
  start.tokens = choice.seq.tokens();
  start.prompt_tokens = choice.seq.prompt_tokens();
  start.seed = ChoiceSeed(choice.entry->sampling->seed, choice.index);
  start.sampling = choice.entry->sampling;
  step.starts.push_back(std::move(start));
}

// ---- Retire

void Scheduler::Retire(const StepPlan& plan,
                       const absl::StatusOr<StepResult>& result,
                       int64_t now_us) {
  absl::Span<const SampledToken> sampled;
  if (result.ok()) sampled = result->sampled;
  for (const PlanRow& row : plan.rows) {
    absl::Span<const SampledToken> row_sampled;
    if (result.ok()) {
      SLUICE_CHECK(sampled.size() >= row.samples.size());
      row_sampled = sampled.first(row.samples.size());
      sampled.remove_prefix(row.samples.size());
    }
    Choice& choice = *choices_.at(row.seq);
    Entry& entry = *choice.entry;
    choice.seq.Retire(row.kv_before + static_cast<uint32_t>(row.tokens.size()),
                      result.ok());
    if (entry.request.phase == RequestPhase::kPrefill && result.ok()) {
      events_.push_back(ChunkDoneEvent{entry.request.key, plan.step});
    }
    if (choice.phase == Phase::kEnded || choice.phase == Phase::kHeld) {
      TryRelease(choice);
    } else if (!result.ok()) {
      EndRequest(entry, result.status());
    } else {
      ReleaseDropped(choice, plan.step);
      // What gave no finite logits must not be found by others.
      const bool finite = absl::c_none_of(row_sampled, [](const auto& token) {
        return token.status == kernels::SampleStatus::kNotFinite;
      });
      if (finite) CommitFullBlocks(choice);
      TakePromptLogprobs(entry, row, *result);
      if (!row_sampled.empty()) TakeSamples(choice, row_sampled);
      if (choice.preempt_pending && choice.seq.in_flight() == 0 &&
          (choice.phase == Phase::kRunning ||
           choice.phase == Phase::kPartial)) {
        Preempt(choice, now_us);
      }
    }
    EraseIfDone(entry);
  }
  SLUICE_CHECK(sampled.empty());
}

void Scheduler::CommitFullBlocks(Choice& choice) {
  if (!choice.chain.has_value()) return;
  // Somebody may still read a block that an equal one replaces: a launched
  // step, or the transfer that was offered it.
  const bool in_use = choice.seq.in_flight() > 0 || choice.entry->offered();
  const uint32_t full = choice.seq.target_entries() / block_tokens_;
  for (; choice.committed_blocks < full; ++choice.committed_blocks) {
    BlockId& entry = choice.table[choice.committed_blocks];
    const BlockId own = entry;
    entry = prefix_cache_.Commit(
        own, choice.chain->hashes()[choice.committed_blocks]);
    if (entry == own) continue;
    if (in_use) {
      choice.dropped.push_back({own, next_step_ - 1});
    } else {
      allocator_.Unref(own);
    }
  }
}

void Scheduler::ReleaseDropped(Choice& choice, uint64_t retired_step) {
  if (choice.entry->offered()) return;
  auto& dropped = choice.dropped;
  size_t kept = 0;
  for (const Choice::Dropped& d : dropped) {
    if (d.step <= retired_step) {
      allocator_.Unref(d.block);
    } else {
      dropped[kept++] = d;
    }
  }
  dropped.resize(kept);
}

void Scheduler::TakePromptLogprobs(Entry& entry, const PlanRow& row,
                                   const StepResult& result) {
  if (row.prompt_logprobs < 0 || entry.prompt_logprobs_sent) return;
  for (const PromptLogprobs& part : result.prompt_logprobs) {
    if (part.seq != row.seq) continue;
    // After a preemption positions come again, with equal values.
    SLUICE_CHECK(part.first_position >= 1 &&
                 part.first_position <= entry.prompt_logprobs.size() + 1);
    entry.prompt_logprobs.resize(part.first_position - 1);
    entry.prompt_logprobs.insert(entry.prompt_logprobs.end(),
                                 part.positions.begin(), part.positions.end());
  }
  if (row.kv_before + row.tokens.size() < entry.request.prompt.size()) return;
  entry.prompt_logprobs_sent = true;
  events_.push_back(PromptLogprobsEvent{
      entry.request.key, std::exchange(entry.prompt_logprobs, {})});
}

void Scheduler::TakeSamples(Choice& choice,
                            absl::Span<const SampledToken> sampled) {
  Entry& entry = *choice.entry;
  for (const SampledToken& token : sampled) {
    if (token.status == kernels::SampleStatus::kOk) continue;
    const uint32_t position = choice.seq.length();
    if (token.status == kernels::SampleStatus::kNothingAllowed) {
      return EndRequest(entry,
                        absl::FailedPreconditionError(absl::StrFormat(
                            "no token is allowed at position %d", position)));
    }
    return EndRequest(entry,
                      absl::InternalError(absl::StrFormat(
                          "logits of request %s at position %d are not finite",
                          entry.request.id, position)),
                      true);
  }
  if (entry.request.phase == RequestPhase::kPrefill) {
    return FinishPrefill(choice, sampled);
  }
  Fork(choice);
  const std::vector<Choice*> group =
      std::exchange(choice.group, std::vector<Choice*>{&choice});
  SLUICE_CHECK(group.size() == sampled.size());
  for (size_t i = 0; i < group.size(); ++i) {
    SLUICE_CHECK(sampled[i].seq == group[i]->seq.key());
    AppendToken(*group[i], sampled[i].token, &sampled[i].logprobs);
  }
}

void Scheduler::FinishPrefill(Choice& choice,
                              absl::Span<const SampledToken> sampled) {
  Entry& entry = *choice.entry;
  FirstTokensEvent event;
  event.key = entry.request.key;
  for (const SampledToken& token : sampled) {
    event.first.tokens.push_back(token.token);
    if (entry.sampling->logprobs >= 0) {
      event.first.logprobs.push_back(token.logprobs);
    }
  }
  events_.push_back(std::move(event));
  entry.first_sent = true;
  if (entry.hold_released) Finish(entry, absl::OkStatus());
  for (Choice* member : std::exchange(choice.group, {&choice})) {
    DropChoice(*member);
  }
}

void Scheduler::Fork(Choice& lead) {
  for (Choice* choice : lead.group) {
    if (choice == &lead) continue;
    SLUICE_CHECK(choice->phase == Phase::kUnborn);
    choice->seq.Receive();
    choice->chain = lead.chain;
    choice->table = lead.table;
    choice->committed_blocks = lead.committed_blocks;
    for (BlockId block : choice->table) allocator_.Ref(block);
    choice->admission = next_admission_++;
    choice->waited_us = lead.waited_us;
    choice->admitted_before = true;
    choice->group = {choice};
    PushRunning(*choice);
  }
}

void Scheduler::AppendToken(Choice& choice, TokenId token,
                            const TokenLogprobs* logprobs) {
  Entry& entry = *choice.entry;
  Sequence& seq = choice.seq;
  seq.Append(token);
  if (choice.chain.has_value()) choice.chain->Extend(seq.tokens());

  TokensEvent event;
  event.key = entry.request.key;
  event.run.choice = choice.index;
  const absl::Span<const TokenId> emitted = seq.TakeEmitted();
  event.run.tokens.assign(emitted.begin(), emitted.end());
  event.run.first_position =
      seq.generated() - static_cast<uint32_t>(emitted.size());
  if (entry.sampling->logprobs >= 0) event.run.logprobs = {*logprobs};
  events_.push_back(std::move(event));

  const StopCause cause =
      CheckStop(entry.stop_rules, token, seq.generated(), seq.length());
  if (cause == StopCause::kNone) return;
  const bool by_token =
      cause == StopCause::kEos || cause == StopCause::kStopToken;
  events_.push_back(ChoiceEndedEvent{
      entry.request.key,
      {.choice = choice.index,
       .reason = by_token ? FinishReason::kStop : FinishReason::kLength,
       .stop_token = by_token ? token : -1,
       .positions = seq.generated()}});
  EndChoice(choice);
}

// ---- What is seen from outside

SchedulerCounts Scheduler::Counts(int64_t now_us) const {
  SchedulerCounts counts;
  counts.running_seqs =
      static_cast<uint32_t>(running_.size()) + (partial_ != nullptr ? 1 : 0);
  counts.waiting_seqs = static_cast<uint32_t>(waiting_.size()) + remote_seqs_;
  counts.remote_seqs = remote_seqs_;
  counts.held_seqs = held_seqs_;
  counts.waiting_tokens = waiting_tokens_;
  counts.live_requests = live_requests_;
  for (const Choice* choice : waiting_) {
    counts.oldest_wait_us =
        std::max(counts.oldest_wait_us, now_us - choice->queued_us);
  }
  for (const auto& [key, held] : quarantined_) {
    counts.oldest_quarantine_us =
        std::max(counts.oldest_quarantine_us, now_us - held.since_us);
  }
  return counts;
}

std::vector<std::pair<SequenceKey, std::vector<BlockId>>> Scheduler::Tables()
    const {
  std::vector<std::pair<SequenceKey, std::vector<BlockId>>> tables;
  for (const auto& [key, choice] : choices_) {
    if (!choice->table.empty()) tables.emplace_back(key, choice->table);
  }
  std::sort(tables.begin(), tables.end());
  return tables;
}

absl::Status Scheduler::CheckInvariants() const {
  if (absl::Status s = allocator_.CheckInvariants(); !s.ok()) return s;
  if (absl::Status s = prefix_cache_.CheckInvariants(); !s.ok()) return s;
  std::vector<uint32_t> refs(allocator_.num_blocks(), 0);
  uint64_t waiting_tokens = 0;
  for (const auto& [key, choice] : choices_) {
    if (absl::Status s = CheckChoice(*choice); !s.ok()) return s;
    for (BlockId block : choice->table) ++refs[block];
    for (const auto& dropped : choice->dropped) ++refs[dropped.block];
    if (choice->phase == Phase::kWaiting) {
      waiting_tokens += choice->seq.length();
    }
  }
  for (BlockId block = 1; block < allocator_.num_blocks(); ++block) {
    if (refs[block] == allocator_.refs(block)) continue;
    return absl::InternalError(
        absl::StrCat("block ", block, " has ", allocator_.refs(block),
                     " references, found ", refs[block]));
  }
  if (waiting_tokens != waiting_tokens_) {
    return absl::InternalError("queued tokens are miscounted");
  }
  return CheckQuarantine();
}

absl::Status Scheduler::CheckQuarantine() const {
  uint32_t blocks = 0;
  for (const auto& [key, held] : quarantined_) {
    blocks += static_cast<uint32_t>(held.blocks.size());
    for (BlockId block : held.blocks) {
      if (allocator_.state(block) == BlockAllocator::State::kQuarantined) {
        continue;
      }
      return absl::InternalError(absl::StrCat(
          "block ", block, " may still be written for request ", key));
    }
  }
  if (blocks == allocator_.num_quarantined()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(
      allocator_.num_quarantined(), " blocks are quarantined, found ", blocks));
}

absl::Status Scheduler::CheckChoice(const Choice& choice) const {
  const Sequence& seq = choice.seq;
  if (absl::Status s = seq.CheckInvariants(); !s.ok()) return s;
  const Phase phase = choice.phase;
  const bool computing = phase == Phase::kRunning || phase == Phase::kPartial;
  if (computing && seq.in_flight() == 0 &&
      (seq.target_entries() != seq.launched_entries() ||
       (phase == Phase::kRunning &&
        seq.target_entries() + 1 != seq.length()))) {
    return absl::InternalError(absl::StrCat("sequence ", seq.key(), " has ",
                                            seq.target_entries(),
                                            " entries of ", seq.length()));
  }

  uint32_t entries = seq.launched_entries();
  if (phase == Phase::kUnborn || phase == Phase::kWaiting) entries = 0;
  if (phase == Phase::kRemote || phase == Phase::kWithdrawn) {
    entries = seq.length();
  }
  std::vector<BlockId> sorted = choice.table;
  std::sort(sorted.begin(), sorted.end());
  const bool distinct =
      std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
  if (sorted.size() != BlocksFor(entries, block_tokens_) || !distinct ||
      (!sorted.empty() && sorted.front() == 0)) {
    return absl::InternalError(absl::StrCat("sequence ", seq.key(), " has ",
                                            sorted.size(), " blocks for ",
                                            entries, " entries"));
  }

  // A block that a launched step writes belongs to one sequence alone.
  if (seq.in_flight() == 0) return absl::OkStatus();
  for (size_t i = seq.target_entries() / block_tokens_; i < choice.table.size();
       ++i) {
    const BlockId block = choice.table[i];
    if (allocator_.refs(block) == 1 && !allocator_.hashed(block)) continue;
    return absl::InternalError(
        absl::StrCat("sequence ", seq.key(), " writes shared block ", block));
  }
  return absl::OkStatus();
}

}  // namespace sluice::worker
