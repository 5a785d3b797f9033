#include "worker/server/attempt.h"

#include <algorithm>
#include <utility>

#include "worker/handoff/logprobs_proto.h"

namespace sluice::worker {
namespace {

uint32_t MsSince(int64_t begin_us, int64_t now_us) {
  return static_cast<uint32_t>(std::max<int64_t>(0, now_us - begin_us) / 1000);
}

// `event` without the tokens a reader already has; null when none are left.
std::shared_ptr<const v1::WorkerEvent> Trimmed(
    const std::shared_ptr<const v1::WorkerEvent>& event,
    const std::map<uint32_t, uint32_t>& next_position) {
  if (!event->has_delta() || next_position.empty()) return event;
  const v1::TokenDelta& delta = event->delta();
  const auto wanted = next_position.find(delta.choice());
  if (wanted == next_position.end() ||
      wanted->second <= delta.first_position()) {
    return event;
  }
  const int known = static_cast<int>(wanted->second - delta.first_position());
  if (known >= delta.token_ids_size()) return nullptr;
  auto rest = std::make_shared<v1::WorkerEvent>(*event);
  v1::TokenDelta* trimmed = rest->mutable_delta();
  trimmed->set_first_position(wanted->second);
  trimmed->mutable_token_ids()->erase(
      trimmed->mutable_token_ids()->begin(),
      trimmed->mutable_token_ids()->begin() + known);
  auto* logprobs = trimmed->mutable_logprobs()->mutable_positions();
  if (!logprobs->empty()) logprobs->DeleteSubrange(0, known);
  return rest;
}

}  // namespace

Attempt::Attempt(AttemptInfo info, const Clock& clock)
    : info_(std::move(info)),
      clock_(clock),
      submitted_us_(clock.NowMicros()),
      unread_since_us_(submitted_us_) {
  v1::WorkerEvent queued;
  queued.set_state(v1::WorkerEvent::QUEUED);
  Append(std::move(queued));
}

void Attempt::Attach(const std::shared_ptr<AttemptReader>& reader,
                     std::map<uint32_t, uint32_t> next_position) {
  std::shared_ptr<AttemptReader> old;
  {
    MutexLock lock(mu_);
    old = std::exchange(reader_, reader);
    next_position_ = std::move(next_position);
    read_bytes_ = 0;
  }
  if (old != nullptr) old->OnReplaced();
  reader->OnReadable();
}

void Attempt::Detach(const AttemptReader* reader, bool done) {
  std::shared_ptr<AttemptReader> gone;
  MutexLock lock(mu_);
  if (reader_.get() != reader) return;
  gone = std::move(reader_);
  reader_ = nullptr;
  fully_read_ = done;
  unread_since_us_ = clock_.NowMicros();
}

std::shared_ptr<const v1::WorkerEvent> Attempt::Next(Cursor& cursor) {
  MutexLock lock(mu_);
  std::shared_ptr<const v1::WorkerEvent> event;
  while (event == nullptr && cursor.next < journal_.size()) {
    const Entry& entry = journal_[cursor.next++];
    read_bytes_ = entry.end_bytes;
    event = Trimmed(entry.event, next_position_);
  }
  UpdateBacklog();
  return event;
}

std::optional<absl::Status> Attempt::FinalStatus(const Cursor& cursor) const {
  MutexLock lock(mu_);
  if (cursor.next < journal_.size()) return std::nullopt;
  return final_;
}

void Attempt::CutReader(const absl::Status& cause) {
  std::shared_ptr<AttemptReader> reader;
  {
    MutexLock lock(mu_);
    reader = reader_;
  }
  if (reader != nullptr) reader->OnCut(cause);
}

void Attempt::SetUnwanted() {
  MutexLock lock(mu_);
  unwanted_ = true;
}

bool Attempt::Expired() const {
  MutexLock lock(mu_);
  if (reader_ != nullptr) return false;
  if (final_.has_value() && (fully_read_ || unwanted_)) return true;
  return clock_.NowMicros() - unread_since_us_ >= info_.orphan_ms * 1000;
}

bool Attempt::finished() const {
  MutexLock lock(mu_);
  return final_.has_value();
}

bool Attempt::MarkOrphaned() {
  MutexLock lock(mu_);
  return !std::exchange(orphaned_, true);
}

void Attempt::Append(v1::WorkerEvent event,
                     std::optional<absl::Status> final_status) {
  event.set_attempt(info_.attempt);
  std::shared_ptr<AttemptReader> reader;
  {
    MutexLock lock(mu_);
    if (final_.has_value()) return;
    if (event.event_case() != v1::WorkerEvent::EVENT_NOT_SET) {
      journal_bytes_ += event.ByteSizeLong();
      auto kept = std::make_shared<const v1::WorkerEvent>(std::move(event));
      journal_.push_back(
          {.event = std::move(kept), .end_bytes = journal_bytes_});
      UpdateBacklog();
    }
    final_ = std::move(final_status);
    reader = reader_;
  }
  if (reader != nullptr) reader->OnReadable();
}

void Attempt::UpdateBacklog() {
  const uint64_t ahead = journal_bytes_ - read_bytes_;
  const bool backlogged =
      ahead > (backlogged_ ? kMaxAheadBytes / 2 : kMaxAheadBytes);
  if (backlogged == backlogged_) return;
  backlogged_ = backlogged;
  if (on_backlog_) on_backlog_(backlogged);
}

uint64_t Attempt::journal_bytes() const {
  MutexLock lock(mu_);
  return journal_bytes_;
}

void Attempt::AppendAdmitted(const v1::Ticket* ticket) {
  v1::WorkerEvent event;
  v1::Admitted* admitted = event.mutable_admitted();
  admitted->set_instance(info_.instance);
  admitted->set_generation(info_.generation);
  {
    MutexLock lock(mu_);
    admitted->set_cached_tokens(cached_tokens_);
  }
  if (ticket != nullptr) *admitted->mutable_ticket() = *ticket;
  Append(std::move(event));
}

void Attempt::OnTicket(const v1::Ticket& ticket) { AppendAdmitted(&ticket); }

void Attempt::OnReceived(const kvtransfer::TransferResult& result) {
  MutexLock lock(mu_);
  timing_.set_transfer_bytes(result.bytes);
  timing_.set_transfer_ms(static_cast<uint32_t>(result.elapsed_us / 1000));
  timing_.set_transfer_transport(result.transport);
}

void Attempt::OnSent(const std::string& transfer_id,
                     const kvtransfer::TransferResult& result) {
  v1::WorkerEvent event;
  event.mutable_prefill_done()->set_transfer_id(transfer_id);
  event.mutable_prefill_done()->set_state(
      static_cast<v1::TransferState>(result.state));
  Append(std::move(event));
}

void Attempt::OnStarted(uint32_t cached_tokens) {
  {
    MutexLock lock(mu_);
    cached_tokens_ = cached_tokens;
    timing_.set_queue_ms(MsSince(submitted_us_, clock_.NowMicros()));
  }
  // A decode attempt is admitted with its ticket.
  if (info_.phase != RequestPhase::kDecode) AppendAdmitted(nullptr);
}

void Attempt::OnPromptLogprobs(std::vector<TokenLogprobs> positions) {
  v1::WorkerEvent event;
  for (const TokenLogprobs& position : positions) {
    ToProto(position, event.mutable_prompt_logprobs()->add_positions());
  }
  event.mutable_prompt_logprobs();
  Append(std::move(event));
}

void Attempt::OnTokens(TokenRun run) {
  v1::WorkerEvent event;
  v1::TokenDelta* delta = event.mutable_delta();
  delta->set_choice(run.choice);
  delta->set_first_position(run.first_position);
  for (const TokenId token : run.tokens) delta->add_token_ids(token);
  for (const TokenLogprobs& logprobs : run.logprobs) {
    ToProto(logprobs, delta->mutable_logprobs()->add_positions());
  }
  {
    MutexLock lock(mu_);
    if (timing_.ttft_ms() == 0) {
      timing_.set_ttft_ms(MsSince(submitted_us_, clock_.NowMicros()));
    }
  }
  Append(std::move(event));
}

void Attempt::OnPreempted() {
  v1::WorkerEvent event;
  event.set_state(v1::WorkerEvent::PREEMPTED);
  Append(std::move(event));
}

void Attempt::OnChoiceEnded(const ChoiceEnding& ending) {
  v1::WorkerEvent event;
  v1::ChoiceEnd* end = event.mutable_choice_end();
  end->set_choice(ending.choice);
  end->set_positions(ending.positions);
  if (ending.stop_token >= 0) end->set_stop_token_id(ending.stop_token);
  switch (ending.reason) {
    case FinishReason::kStop:
      end->set_reason(v1::ChoiceEnd::STOP);
      break;
    case FinishReason::kLength:
      end->set_reason(v1::ChoiceEnd::LENGTH);
      break;
    case FinishReason::kAbort:
      end->set_reason(v1::ChoiceEnd::ABORT);
      break;
  }
  Append(std::move(event));
}

void Attempt::OnFinished(const absl::Status& status, const Usage& usage) {
  v1::WorkerEvent event;
  if (status.ok()) {
    v1::RequestEnd* end = event.mutable_end();
    end->set_prompt_tokens(usage.prompt_tokens);
    end->set_cached_tokens(usage.cached_tokens);
    end->set_completion_tokens(usage.completion_tokens);
    MutexLock lock(mu_);
    timing_.set_total_ms(MsSince(submitted_us_, clock_.NowMicros()));
    *end->mutable_timing() = timing_;
  }
  if (on_finished_) std::exchange(on_finished_, nullptr)();
  Append(std::move(event), status);
}

}  // namespace sluice::worker
