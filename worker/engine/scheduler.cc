#include "worker/engine/scheduler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/grpc_status.h"
#include "worker/engine/scheduler_state.h"

namespace sluice::worker {
namespace {

constexpr int64_t kEarlyCancelUs = 60'000'000;
constexpr size_t kMaxSaltBytes = 256;
constexpr char kNoCacheSalt[] = "none";

uint32_t LengthLimit(const SchedulerOptions& options) {
  const uint64_t pool_tokens =
      uint64_t{options.num_blocks - 1} * options.limits.block_tokens;
  return static_cast<uint32_t>(
      std::min<uint64_t>(options.model_length, pool_tokens));
}

template <typename T>
void Erase(std::vector<T>& from, const T& value) {
  const auto it = std::find(from.begin(), from.end(), value);
  SLUICE_CHECK(it != from.end());
  from.erase(it);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(
    const SchedulerOptions& options) {
  if (absl::Status status = CheckBatchLimits(options.limits); !status.ok()) {
    return status;
  }
  if (options.num_blocks < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_blocks must be at least 2, got ", options.num_blocks));
  }
  if (options.model_length < 2 || options.vocab < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("model_length must be at least 2, got ",
                     options.model_length, "; vocab ", options.vocab));
  }
  if (options.aging_ms < 1) {
    return absl::InvalidArgumentError("aging_ms must be positive, got 0");
  }
  if (options.kv_fingerprint.size() != sizeof(BlockHash)) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv_fingerprint must have 32 bytes, got ",
                     options.kv_fingerprint.size()));
  }
  return std::unique_ptr<Scheduler>(new Scheduler(options));
}

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      block_tokens_(options.limits.block_tokens),
      length_limit_(LengthLimit(options)),
      watermark_blocks_(WatermarkBlocks(options.num_blocks - 1)),
      allocator_(options.num_blocks),
      prefix_cache_(&allocator_) {}

Scheduler::~Scheduler() = default;

// ---- Submission

void Scheduler::Submit(Request request, int64_t now_us, int64_t retry_hint_ms) {
  SLUICE_CHECK(Find(request.key) == nullptr);
  ForgetEarlyCancels(now_us);
  const auto early = early_cancels_.find(request.key);
  const absl::Status refusal =
      early != early_cancels_.end()
          ? early->second
          : CheckRequest(request, now_us, retry_hint_ms);
  if (!refusal.ok()) return Refuse(request, refusal);

  auto owned = std::make_unique<Entry>();
  Entry& entry = *owned;
  entry.request = std::move(request);
  entry.sampling =
      std::make_shared<const SamplingParams>(entry.request.sampling);
  entry.stop_rules = {
      .eos_ids = options_.eos_ids,
      .stop_token_ids = entry.sampling->stop_token_ids,
      .ignore_eos = entry.sampling->ignore_eos,
      .max_tokens = static_cast<uint32_t>(entry.sampling->max_tokens),
      .length_limit = length_limit_,
  };
  entry.arrival = next_arrival_++;
  const RequestKey key = entry.request.key;
  entries_.emplace(key, std::move(owned));
  ++live_requests_;
  if (entry.request.deadline_us != 0) {
    deadlines_.emplace(entry.request.deadline_us, key);
  }
  CreateChoices(entry, now_us);
  if (entry.live_choices == 0) Finish(entry, absl::OkStatus());
  EraseIfDone(entry);
}

absl::Status Scheduler::CheckRequest(const Request& request, int64_t now_us,
                                     int64_t retry_hint_ms) const {
  if (draining_) {
    return WithReason(absl::UnavailableError("draining"), "DRAINING");
  }
  if (absl::Status prompt = CheckPrompt(request.prompt, options_.vocab);
      !prompt.ok()) {
    return prompt;
  }
  if (request.priority < -100 || request.priority > 100) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "priority must be in [-100, 100], got %d", request.priority));
  }
  if (request.cache_salt.size() > kMaxSaltBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("cache_salt has %d bytes, limit %d",
                        request.cache_salt.size(), kMaxSaltBytes));
  }
  if (absl::Status replay = CheckReplay(request); !replay.ok()) return replay;
  size_t longest = request.prompt.size();
  for (const auto& tokens : request.replay) {
    longest = std::max(longest, request.prompt.size() + tokens.size());
  }
  if (longest + 1 > length_limit_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("prompt of %d tokens can never fit: limit %d", longest,
                        length_limit_ - 1));
  }
  if (request.deadline_us != 0 && request.deadline_us <= now_us) {
    return absl::DeadlineExceededError("deadline passed before admission");
  }
  return CheckQueue(request, retry_hint_ms);
}

absl::Status Scheduler::CheckReplay(const Request& request) const {
  const size_t n = request.sampling.n;
  if (n < 1 || (!request.replay.empty() && request.replay.size() != n) ||
      (!request.replay_ended.empty() && request.replay_ended.size() != n)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "replay holds %d choices, n is %d", request.replay.size(), n));
  }
  const std::vector<TokenId>* shared = nullptr;
  for (size_t c = 0; c < request.replay.size(); ++c) {
    for (TokenId token : request.replay[c]) {
      if (token >= 0 && static_cast<uint32_t>(token) < options_.vocab) {
        continue;
      }
      return absl::InvalidArgumentError(absl::StrFormat(
          "replay token %d is outside [0, %d)", token, options_.vocab));
    }
    if (!request.replay_ended.empty() && request.replay_ended[c]) continue;
    if (request.phase != RequestPhase::kBoth && shared != nullptr &&
        *shared != request.replay[c]) {
      return absl::UnimplementedError(
          "choices with different tokens cannot share one remote prompt");
    }
    shared = &request.replay[c];
  }
  return absl::OkStatus();
}

absl::Status Scheduler::CheckQueue(const Request& request,
                                   int64_t retry_hint_ms) const {
  std::string what;
  if (waiting_.size() >= options_.max_waiting_seqs) {
    what = absl::StrFormat("%d sequences wait, limit %d", waiting_.size(),
                           options_.max_waiting_seqs);
  } else if (waiting_tokens_ + request.prompt.size() >
             options_.max_waiting_tokens) {
    what = absl::StrFormat("%d tokens wait, limit %d", waiting_tokens_,
                           options_.max_waiting_tokens);
  } else {
    return absl::OkStatus();
  }
  return WithRetry(absl::ResourceExhaustedError(absl::StrFormat(
                       "queue full: %s, retry in %d ms", what, retry_hint_ms)),
                   retry_hint_ms);
}

void Scheduler::Refuse(const Request& request, const absl::Status& status) {
  if (request.phase == RequestPhase::kPrefill) {
    events_.push_back(PrefillFailedEvent{request.key, status});
  }
  Usage usage;
  usage.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  events_.push_back(FinishedEvent{request.key, status, usage, false});
}

void Scheduler::CreateChoices(Entry& entry, int64_t now_us) {
  const Request& request = entry.request;
  const bool hashed =
      request.cache_salt != kNoCacheSalt && entry.sampling->prompt_logprobs < 0;
  const HashRoot root{options_.kv_fingerprint, "", request.cache_salt};
  const auto prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  std::vector<Choice*> leads;
  for (uint32_t c = 0; c < static_cast<uint32_t>(entry.sampling->n); ++c) {
    std::vector<TokenId> tokens = request.prompt;
    if (!request.replay.empty()) {
      tokens.insert(tokens.end(), request.replay[c].begin(),
                    request.replay[c].end());
    }
    if (!request.replay_ended.empty() && request.replay_ended[c]) {
      entry.ended_tokens +=
          static_cast<uint32_t>(tokens.size()) - prompt_tokens;
      entry.choices.push_back(nullptr);
      continue;
    }
    entry.choices.push_back(std::make_unique<Choice>(
        &entry, c,
        Sequence(next_sequence_++, std::move(tokens), prompt_tokens)));
    Choice& choice = *entry.choices.back();
    choices_.emplace(choice.seq.key(), &choice);
    ++entry.live_choices;
    ++entry.open_choices;
    // Choices with equal tokens so far are computed once.
    const auto lead = std::find_if(leads.begin(), leads.end(), [&](Choice* l) {
      return l->seq.tokens() == choice.seq.tokens();
    });
    if (lead != leads.end()) {
      (*lead)->group.push_back(&choice);
      continue;
    }
    leads.push_back(&choice);
    choice.group = {&choice};
    if (hashed) {
      choice.chain.emplace(RootHash(root), block_tokens_);
      choice.chain->Extend(choice.seq.tokens());
    }
    PushWaiting(choice, now_us);
  }
}

void Scheduler::ForgetEarlyCancels(int64_t now_us) {
  while (!early_cancel_ends_.empty() &&
         early_cancel_ends_.front().first <= now_us) {
    early_cancels_.erase(early_cancel_ends_.front().second);
    early_cancel_ends_.pop_front();
  }
}

// ---- Cancel, deadlines

CancelState Scheduler::Cancel(RequestKey key, const absl::Status& cause,
                              int64_t now_us) {
  SLUICE_CHECK(!cause.ok());
  Entry* const entry = Find(key);
  if (entry == nullptr) {
    ForgetEarlyCancels(now_us);
    if (early_cancels_.emplace(key, cause).second) {
      early_cancel_ends_.emplace_back(now_us + kEarlyCancelUs, key);
    }
    return CancelState::kUnknown;
  }
  if (entry->finished) return CancelState::kFinished;
  const CancelState state = StateOf(*entry);
  EndRequest(*entry, cause);
  EraseIfDone(*entry);
  return state;
}

void Scheduler::CancelAll(const absl::Status& cause, int64_t now_us) {
  std::vector<RequestKey> keys;
  for (const auto& [key, entry] : entries_) keys.push_back(key);
  std::sort(keys.begin(), keys.end());
  for (RequestKey key : keys) Cancel(key, cause, now_us);
}

std::vector<CancelState> Scheduler::ExpireDeadlines(int64_t now_us) {
  std::vector<CancelState> states;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_us) {
    const RequestKey key = deadlines_.begin()->second;
    states.push_back(
        Cancel(key, absl::DeadlineExceededError("deadline exceeded"), now_us));
  }
  return states;
}

int64_t Scheduler::NextDeadlineUs() const {
  return deadlines_.empty() ? 0 : deadlines_.begin()->first;
}

CancelState Scheduler::StateOf(const Entry& entry) const {
  CancelState state = CancelState::kWaiting;
  for (const auto& choice : entry.choices) {
    if (choice == nullptr) continue;
    if (choice->seq.in_flight() > 0) return CancelState::kLaunched;
    switch (choice->phase) {
      case Phase::kRemote:
        return CancelState::kRemote;
      case Phase::kHeld:
        return CancelState::kHeld;
      case Phase::kRunning:
        state = CancelState::kRunning;
        break;
      case Phase::kPartial:
      case Phase::kWaiting:
        if (choice->admitted_before && state == CancelState::kWaiting) {
          state = CancelState::kPartial;
        }
        break;
      default:
        break;
    }
  }
  return state;
}

// ---- Ends and releases

void Scheduler::EndRequest(Entry& entry, const absl::Status& status,
                           bool bad_logits) {
  SLUICE_CHECK(!entry.finished);
  const bool remote = std::any_of(
      entry.choices.begin(), entry.choices.end(),
      [](auto& c) { return c != nullptr && c->phase == Phase::kRemote; });
  if (remote) events_.push_back(WithdrawnEvent{entry.request.key, status});
  if (entry.request.phase == RequestPhase::kPrefill) {
    events_.push_back(PrefillFailedEvent{entry.request.key, status});
  }
  Finish(entry, status, bad_logits);
  for (const auto& choice : entry.choices) {
    if (choice != nullptr) DropChoice(*choice);
  }
}

void Scheduler::EndChoice(Choice& choice) {
  Entry& entry = *choice.entry;
  entry.ended_tokens += choice.seq.generated();
  --entry.live_choices;
  DropChoice(choice);
  if (entry.live_choices == 0) Finish(entry, absl::OkStatus());
}

void Scheduler::DropChoice(Choice& choice) {
  const bool withdraw = choice.phase == Phase::kRemote;
  switch (choice.phase) {
    case Phase::kEnded:
    case Phase::kWithdrawn:
    case Phase::kHeld:
      return;
    default:
      break;
  }
  RemoveFromQueues(choice, choice.queued_us);
  if (choice.on_executor) ended_on_executor_.push_back(choice.seq.key());
  choice.on_executor = false;
  const Entry& entry = *choice.entry;
  if (withdraw) {
    choice.phase = Phase::kWithdrawn;
    ++held_seqs_;
    return;
  }
  // What a transfer may still read stays until the hand-over lets go.
  if (entry.offered() && !choice.table.empty()) {
    choice.phase = Phase::kHeld;
    ++held_seqs_;
  } else {
    choice.phase = Phase::kEnded;
  }
  TryRelease(choice);
}

void Scheduler::Finish(Entry& entry, const absl::Status& status,
                       bool bad_logits) {
  SLUICE_CHECK(!entry.finished);
  Usage usage;
  usage.prompt_tokens = static_cast<uint32_t>(entry.request.prompt.size());
  usage.cached_tokens = entry.cached_tokens;
  usage.completion_tokens = entry.ended_tokens;
  for (const auto& choice : entry.choices) {
    if (choice == nullptr || choice->phase == Phase::kEnded) continue;
    usage.completion_tokens += choice->seq.generated();
  }
  entry.finished = true;
  --live_requests_;
  if (entry.request.deadline_us != 0) {
    deadlines_.erase({entry.request.deadline_us, entry.request.key});
  }
  events_.push_back(
      FinishedEvent{entry.request.key, status, usage, bad_logits});
}

void Scheduler::TryRelease(Choice& choice) {
  if (choice.seq.in_flight() > 0) return;
  if (choice.phase == Phase::kHeld) {
    if (!choice.entry->hold_released) return;
    --held_seqs_;
  }
  ReleaseBlocks(choice);
  choice.phase = Phase::kEnded;
  choices_.erase(choice.seq.key());
  --choice.entry->open_choices;
}

void Scheduler::ReleaseBlocks(Choice& choice) {
  while (!choice.table.empty()) {
    allocator_.Unref(choice.table.back());
    choice.table.pop_back();
  }
  for (const auto& dropped : choice.dropped) allocator_.Unref(dropped.block);
  choice.dropped.clear();
  choice.committed_blocks = 0;
}

void Scheduler::EraseIfDone(Entry& entry) {
  if (entry.finished && entry.open_choices == 0) {
    entries_.erase(RequestKey{entry.request.key});
  }
}

Scheduler::Entry* Scheduler::Find(RequestKey key) {
  const auto it = entries_.find(key);
  return it == entries_.end() ? nullptr : it->second.get();
}

// ---- Queues

void Scheduler::PushWaiting(Choice& choice, int64_t now_us) {
  choice.phase = Phase::kWaiting;
  choice.queued_us = now_us;
  waiting_.push_back(&choice);
  waiting_tokens_ += choice.seq.length();
}

void Scheduler::RemoveFromQueues(Choice& choice, int64_t now_us) {
  switch (choice.phase) {
    case Phase::kWaiting:
      Erase(waiting_, &choice);
      waiting_tokens_ -= choice.seq.length();
      choice.waited_us += now_us - choice.queued_us;
      break;
    case Phase::kRunning:
      Erase(running_, &choice);
      break;
    case Phase::kPartial:
      SLUICE_CHECK(partial_ == &choice);
      partial_ = nullptr;
      break;
    case Phase::kRemote:
      --remote_seqs_;
      break;
    default:
      break;
  }
}

void Scheduler::PushRunning(Choice& choice) {
  choice.phase = Phase::kRunning;
  // A remote prompt may be ready after prompts that were admitted later.
  const auto at = std::upper_bound(running_.begin(), running_.end(), &choice,
                                   [](const Choice* a, const Choice* b) {
                                     return a->admission < b->admission;
                                   });
  running_.insert(at, &choice);
}

// ---- Hand-over

void Scheduler::RemoteReady(RequestKey key, FirstTokens first, int64_t now_us) {
  Entry* const entry = Find(key);
  if (entry == nullptr) return;
  for (const auto& owned : entry->choices) {
    if (owned == nullptr) continue;
    Choice& choice = *owned;
    if (choice.phase == Phase::kWithdrawn) {
      return RemoteFailed(key, absl::CancelledError(), false, now_us);
    }
    if (choice.phase != Phase::kRemote) continue;
    RemoveFromQueues(choice, now_us);
    const size_t choices = choice.group.size();
    const bool in_vocab = std::all_of(
        first.tokens.begin(), first.tokens.end(), [this](TokenId token) {
          return token >= 0 && static_cast<uint32_t>(token) < options_.vocab;
        });
    if (!in_vocab || first.tokens.size() != choices ||
        (!first.logprobs.empty() && first.logprobs.size() != choices)) {
      choice.phase = Phase::kEnded;
      EndRequest(*entry, absl::InternalError(absl::StrFormat(
                             "peer sent %d first tokens for %d choices%s",
                             first.tokens.size(), choices,
                             in_vocab ? "" : ", one outside the vocabulary")));
      TryRelease(choice);
      break;
    }
    std::vector<SampledToken> sampled(choices);
    for (size_t i = 0; i < choices; ++i) {
      sampled[i].seq = choice.group[i]->seq.key();
      sampled[i].token = first.tokens[i];
      if (!first.logprobs.empty()) {
        sampled[i].logprobs = std::move(first.logprobs[i]);
      }
    }
    choice.seq.Receive();
    PushRunning(choice);
    CommitFullBlocks(choice);
    TakeSamples(choice, sampled);
    break;
  }
  EraseIfDone(*entry);
}

void Scheduler::RemoteFailed(RequestKey key, const absl::Status& cause,
                             bool recompute, int64_t now_us) {
  Entry* const entry = Find(key);
  if (entry == nullptr) return;
  for (const auto& owned : entry->choices) {
    if (owned == nullptr) continue;
    Choice& choice = *owned;
    if (choice.phase == Phase::kWithdrawn) {
      choice.phase = Phase::kEnded;
      --held_seqs_;
      TryRelease(choice);
    } else if (choice.phase == Phase::kRemote) {
      RemoveFromQueues(choice, now_us);
      ReleaseBlocks(choice);
      entry->local = true;
      PushWaiting(choice, now_us);
      if (!recompute) EndRequest(*entry, cause);
    }
  }
  EraseIfDone(*entry);
}

void Scheduler::RemoteQuarantined(RequestKey key, const absl::Status& cause,
                                  bool recompute, int64_t now_us) {
  Entry* const entry = Find(key);
  if (entry == nullptr) return;
  for (const auto& choice : entry->choices) {
    if (choice == nullptr || (choice->phase != Phase::kRemote &&
                              choice->phase != Phase::kWithdrawn)) {
      continue;
    }
    Quarantined& held = quarantined_[key];
    held.since_us = now_us;
    // What the prefix cache lent was never offered to the source.
    while (choice->table.size() > choice->committed_blocks) {
      allocator_.Quarantine(choice->table.back());
      held.blocks.push_back(choice->table.back());
      choice->table.pop_back();
    }
  }
  RemoteFailed(key, cause, recompute, now_us);
}

void Scheduler::RemoteReleased(RequestKey key) {
  const auto it = quarantined_.find(key);
  if (it == quarantined_.end()) return;
  for (BlockId block : it->second.blocks) allocator_.ReleaseQuarantined(block);
  quarantined_.erase(it);
}

void Scheduler::SetPaused(RequestKey key, bool paused) {
  if (Entry* const entry = Find(key); entry != nullptr) entry->paused = paused;
}

void Scheduler::ReleaseHeld(RequestKey key) {
  Entry* const entry = Find(key);
  if (entry == nullptr || entry->request.phase != RequestPhase::kPrefill) {
    return;
  }
  entry->hold_released = true;
  for (const auto& choice : entry->choices) {
    if (choice == nullptr || choice->phase != Phase::kHeld) continue;
    if (!entry->finished) Finish(*entry, absl::OkStatus());
    TryRelease(*choice);
  }
  EraseIfDone(*entry);
}

}  // namespace sluice::worker
