// Scheduler::Plan: reads only.
#include <algorithm>
#include <tuple>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "base/check.h"
#include "worker/engine/scheduler.h"
#include "worker/engine/scheduler_state.h"

namespace sluice::worker {

// What is left while a plan grows.
struct Scheduler::PlanState {
  // A row and what it took, to be given back if its sequence is preempted.
  struct Row {
    const Choice* choice = nullptr;
    uint32_t end = 0;
    uint32_t blocks = 0;
    BlockId copied_block = 0;  // shared block it copies before it writes
  };

  int64_t now_us = 0;
  uint32_t rows_left = 0;
  uint32_t tokens_left = 0;
  uint32_t prompt_tokens_left = 0;
  int64_t blocks_left = 0;
  bool preempts_launched = false;
  bool lacks_room = false;  // the last admission failed for want of it
  std::vector<Row> rows;
  std::vector<const Choice*> preempted;
  absl::flat_hash_set<const Choice*> preempted_set;
  std::vector<SchedulePlan::Admission> admissions;
  uint32_t admitted_seqs = 0;
  // References that this plan gives up (> 0) or takes (< 0), by block.
  absl::flat_hash_map<BlockId, int64_t> given_up;

  bool gone(const Choice& choice) const {
    return !preempted_set.empty() && preempted_set.contains(&choice);
  }
  int64_t RefsAfter(const BlockAllocator& allocator, BlockId block) const {
    const int64_t refs = allocator.refs(block);
    if (given_up.empty()) return refs;
    const auto it = given_up.find(block);
    return it == given_up.end() ? refs : refs - it->second;
  }
  void GiveUp(const BlockAllocator& allocator, BlockId block) {
    if (RefsAfter(allocator, block) == 1) ++blocks_left;
    ++given_up[block];
  }
  void Take(const BlockAllocator& allocator, BlockId block) {
    if (RefsAfter(allocator, block) == 0) --blocks_left;
    --given_up[block];
  }
};

SchedulePlan Scheduler::Plan(int64_t now_us, uint32_t prompt_tokens) const {
  PlanState state;
  state.now_us = now_us;
  state.rows_left = options_.limits.max_batch_seqs;
  state.tokens_left = options_.limits.max_batch_tokens;
  state.prompt_tokens_left = prompt_tokens;
  state.blocks_left = allocator_.available();
  for (const Choice* choice : running_) {
    state.preempts_launched |= choice->preempt_pending;
  }
  if (partial_ != nullptr) state.preempts_launched |= partial_->preempt_pending;

  PlanDecodeRows(state);
  if (PlanPartial(state)) PlanWaiting(state);

  SchedulePlan plan;
  plan.preempted.reserve(state.preempted.size());
  for (const Choice* choice : state.preempted) {
    plan.preempted.push_back(choice->seq.key());
  }
  plan.rows.reserve(state.rows.size());
  for (const PlanState::Row& row : state.rows) {
    plan.rows.push_back({row.choice->seq.key(), row.end});
  }
  plan.admissions = std::move(state.admissions);
  const auto handed_over = [this](const auto& planned) {
    return choices_.at(planned.seq)->entry->request.phase ==
           RequestPhase::kPrefill;
  };
  plan.alone = !plan.preempted.empty() ||
               absl::c_any_of(plan.rows, handed_over) ||
               absl::c_any_of(plan.admissions, handed_over);
  return plan;
}

bool Scheduler::Plannable(const Choice& choice) const {
  return (!choice.seq.caught_up() || DrawsAhead(choice)) &&
         !choice.preempt_pending && !choice.entry->paused;
}

bool Scheduler::DrawsAhead(const Choice& choice) const {
  const Sequence& seq = choice.seq;
  return seq.in_flight() == 1 && seq.launched_entries() == seq.length() &&
         choice.group.size() == 1 &&
         choice.entry->request.phase != RequestPhase::kPrefill &&
         !StopsByLength(choice.entry->stop_rules, seq.generated() + 1,
                        seq.length() + 1);
}

uint32_t Scheduler::RowEnd(const Choice& choice) const {
  return choice.seq.length() + (DrawsAhead(choice) ? 1 : 0);
}

int64_t Scheduler::EffectivePriorityOf(const Choice& choice,
                                       int64_t now_us) const {
  int64_t waited_us = choice.waited_us;
  if (choice.phase == Phase::kWaiting) waited_us += now_us - choice.queued_us;
  return EffectivePriority(choice.entry->request.priority, waited_us,
                           options_.aging_ms);
}

void Scheduler::PlanDecodeRows(PlanState& state) const {
  for (const Choice* choice : running_) {
    if (state.rows_left == 0 || state.tokens_left == 0) return;
    if (state.gone(*choice) || !Plannable(*choice)) continue;
    if (!MakeRoom(state, *choice)) continue;
    PlanState::Row row{.choice = choice, .end = RowEnd(*choice)};
    std::tie(row.blocks, row.copied_block) = RowNeeds(state, *choice, row.end);
    state.blocks_left -= row.blocks;
    if (row.copied_block != 0) ++state.given_up[row.copied_block];
    --state.rows_left;
    state.tokens_left -= row.end - choice->seq.launched_entries();
    state.rows.push_back(row);
  }
}

std::pair<uint32_t, BlockId> Scheduler::RowNeeds(const PlanState& state,
                                                 const Choice& choice,
                                                 uint32_t end) const {
  const auto have = static_cast<uint32_t>(choice.table.size());
  uint32_t blocks = BlocksFor(end, block_tokens_) - have;
  // A block that other choices share must be copied before it is written.
  const uint32_t written = choice.seq.launched_entries() / block_tokens_;
  BlockId copied = 0;
  if (written < have) {
    const BlockId block = choice.table[written];
    if (state.RefsAfter(allocator_, block) > 1) copied = block;
  }
  return {blocks + (copied != 0 ? 1 : 0), copied};
}

bool Scheduler::MakeRoom(PlanState& state, const Choice& needy) const {
  const auto priority = [&](const Choice& choice) {
    return std::make_tuple(choice.entry->paused,
                           EffectivePriorityOf(choice, state.now_us),
                           choice.admission);
  };
  while (RowNeeds(state, needy, RowEnd(needy)).first > state.blocks_left) {
    // Blocks of a launched victim come back when its step retires.
    if (state.preempts_launched) return false;
    const Choice* victim = &needy;
    const auto consider = [&](const Choice& choice) {
      // KV that is being sent must stay.
      if (choice.entry->request.phase == RequestPhase::kPrefill) return;
      if (state.gone(choice) || choice.preempt_pending) return;
      if (priority(choice) > priority(*victim)) victim = &choice;
    };
    for (const Choice* choice : running_) consider(*choice);
    if (partial_ != nullptr) consider(*partial_);
    PlanPreemption(state, *victim);
    if (victim == &needy) return false;
  }
  return true;
}

void Scheduler::PlanPreemption(PlanState& state, const Choice& victim) const {
  state.preempted.push_back(&victim);
  state.preempted_set.insert(&victim);
  if (victim.seq.in_flight() > 0) {
    state.preempts_launched = true;
    return;
  }
  const auto row =
      std::find_if(state.rows.begin(), state.rows.end(),
                   [&](const auto& r) { return r.choice == &victim; });
  if (row != state.rows.end()) {
    ++state.rows_left;
    state.tokens_left += row->end - victim.seq.launched_entries();
    state.blocks_left += row->blocks;
    if (row->copied_block != 0) --state.given_up[row->copied_block];
    state.rows.erase(row);
  }
  for (BlockId block : victim.table) state.GiveUp(allocator_, block);
}

bool Scheduler::PlanPartial(PlanState& state) const {
  if (partial_ == nullptr || state.gone(*partial_)) return true;
  if (state.rows_left == 0 || !Plannable(*partial_)) return false;
  const Sequence& seq = partial_->seq;
  const uint32_t chunk = Chunk(state, seq.length() - seq.launched_entries());
  const uint32_t end = seq.launched_entries() + chunk;
  const uint32_t blocks = RowNeeds(state, *partial_, end).first;
  if (chunk == 0 || blocks > state.blocks_left) return false;
  state.blocks_left -= blocks;
  --state.rows_left;
  state.tokens_left -= chunk;
  state.prompt_tokens_left -= chunk;
  state.rows.push_back({.choice = partial_, .end = end, .blocks = blocks});
  return end == seq.length();
}

uint32_t Scheduler::Chunk(const PlanState& state, uint32_t left) const {
  uint32_t budget = std::min(state.tokens_left, state.prompt_tokens_left);
  if (options_.limits.chunk_tokens != 0) {
    budget = std::min(budget, options_.limits.chunk_tokens);
  }
  return ChunkTokens(left, budget, block_tokens_);
}

void Scheduler::PlanWaiting(PlanState& state) const {
  // Smallest (effective priority, arrival, choice) first; only the few that
  // are admitted get sorted.
  using Key = std::tuple<int64_t, uint64_t, uint32_t, const Choice*>;
  std::vector<Key> queue;
  queue.reserve(waiting_.size());
  for (const Choice* choice : waiting_) {
    if (choice->entry->paused) continue;
    queue.emplace_back(EffectivePriorityOf(*choice, state.now_us),
                       choice->entry->arrival, choice->index, choice);
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<Key>());
  while (!queue.empty() && state.rows_left > 0) {
    const Choice* const choice = std::get<3>(queue.front());
    if (!PlanAdmission(state, *choice)) {
      if (state.lacks_room && PlanPausedPreemption(state)) continue;
      return;
    }
    std::pop_heap(queue.begin(), queue.end(), std::greater<Key>());
    queue.pop_back();
  }
}

bool Scheduler::PlanPausedPreemption(PlanState& state) const {
  for (const Choice* choice : running_) {
    if (!choice->entry->paused || state.gone(*choice)) continue;
    // Of a launched one the room comes with its retirement.
    if (choice->preempt_pending || choice->seq.in_flight() > 0) continue;
    PlanPreemption(state, *choice);
    return true;
  }
  return false;
}

bool Scheduler::PlanAdmission(PlanState& state, const Choice& choice) const {
  state.lacks_room = false;
  const bool alone = running_.size() == state.preempted.size() &&
                     partial_ == nullptr && remote_seqs_ == 0 &&
                     held_seqs_ == 0 && state.admissions.empty();
  const auto group = static_cast<uint32_t>(choice.group.size());
  const uint32_t others =
      RunningSeqs(state) + remote_seqs_ + state.admitted_seqs;
  if (!alone && others + group > options_.limits.max_batch_seqs) {
    state.lacks_room = true;
    return false;
  }

  SchedulePlan::Admission admission{.seq = choice.seq.key(),
                                    .matched = Lookup(choice)};
  const auto matched = static_cast<uint32_t>(admission.matched.size());
  int64_t blocks_left = state.blocks_left;
  for (BlockId block : admission.matched) {
    if (state.RefsAfter(allocator_, block) == 0) --blocks_left;
  }
  const uint32_t length = choice.seq.length();
  const uint32_t skip = matched * block_tokens_;
  const bool remote = StartsRemote(choice);
  const uint32_t chunk = remote ? 0 : Chunk(state, length - skip);
  if (!remote && chunk == 0) return false;
  const uint32_t all_blocks = BlocksFor(length, block_tokens_) - matched;
  const uint32_t blocks =
      remote ? all_blocks : BlocksFor(skip + chunk, block_tokens_) - matched;
  // The rest of a prompt that is cut is spoken for, else its next chunks would
  // push out the rows it was admitted beside.
  if (alone ? blocks > blocks_left
            : blocks_left - all_blocks < watermark_blocks_) {
    state.lacks_room = true;
    return false;
  }

  for (BlockId block : admission.matched) state.Take(allocator_, block);
  state.blocks_left -= blocks;
  state.admitted_seqs += group;
  if (!remote) {
    admission.end = skip + chunk;
    --state.rows_left;
    state.tokens_left -= chunk;
    state.prompt_tokens_left -= chunk;
  }
  const bool whole = remote || admission.end == length;
  state.admissions.push_back(std::move(admission));
  return whole;
}

uint32_t Scheduler::RunningSeqs(const PlanState& state) const {
  size_t seqs = 0;
  for (const Choice* choice : running_) {
    // Others that are preempted come back before anything new is admitted.
    if (choice->entry->paused && state.gone(*choice)) continue;
    seqs += choice->group.size();
  }
  if (partial_ != nullptr) seqs += partial_->group.size();
  return static_cast<uint32_t>(seqs);
}

std::vector<BlockId> Scheduler::Lookup(const Choice& choice) const {
  if (!choice.chain.has_value()) return {};
  // At least one token is always computed.
  const uint32_t most = (choice.seq.length() - 1) / block_tokens_;
  return prefix_cache_.Match(
      absl::MakeConstSpan(choice.chain->hashes()).first(most));
}

bool Scheduler::StartsRemote(const Choice& choice) const {
  return choice.entry->request.phase == RequestPhase::kDecode &&
         !choice.entry->local && !choice.admitted_before;
}

}  // namespace sluice::worker
