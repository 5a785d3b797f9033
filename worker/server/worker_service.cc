#include "worker/server/worker_service.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/grpc_status.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "kvtransfer/wire/kv_wire.h"
#include "worker/server/queue_reactor.h"
#include "worker/server/submit_check.h"
#include "worker/server/submit_reactor.h"

namespace sluice::worker {
namespace {

constexpr size_t kCardChunkBytes = 1 << 20;

// A report stream; Reporter holds it, gRPC's thread removes it.
class ReportStream final : public ReportReader {
 public:
  explicit ReportStream(std::shared_ptr<QueueReactor<v1::WorkerReport>> reactor)
      : reactor_(std::move(reactor)) {}
  void OnReport(v1::WorkerReport report) override {
    reactor_->Push(std::move(report));
  }

 private:
  const std::shared_ptr<QueueReactor<v1::WorkerReport>> reactor_;
};

std::vector<v1::ModelCardChunk> MakeCardChunks(const std::string& card) {
  std::vector<v1::ModelCardChunk> chunks;
  for (size_t at = 0; at < card.size(); at += kCardChunkBytes) {
    chunks.emplace_back().set_content(card.substr(at, kCardChunkBytes));
  }
  if (chunks.empty()) chunks.emplace_back();
  chunks.back().set_sha256(ToHex(Sha256Of(card)));
  return chunks;
}

// A transfer may take as long as the request, at most.
uint32_t TransferDeadlineMs(const Request& request, const WorkerFacts& facts,
                            const Clock& clock) {
  int64_t ms = facts.kv_deadline_ms;
  if (request.deadline_us != 0) {
    ms = std::min(ms, (request.deadline_us - clock.NowMicros()) / 1000);
  }
  return static_cast<uint32_t>(std::clamp<int64_t>(ms, 100, 600000));
}

}  // namespace

WorkerService::WorkerService(Parts parts)
    : parts_(std::move(parts)),
      card_chunks_(MakeCardChunks(parts_.model_card)) {}

grpc::ServerWriteReactor<v1::WorkerEvent>* WorkerService::Submit(
    grpc::CallbackServerContext* context, const v1::SubmitRequest* submit) {
  absl::StatusOr<Request> request =
      CheckSubmit(*submit, *parts_.facts, *parts_.clock);
  if (!request.ok()) return SubmitReactor::Refuse(context, request.status());
  AttemptInfo info;
  info.request_id = submit->request_id();
  info.attempt = submit->attempt();
  info.key = request->key = next_key_.fetch_add(1);
  info.phase = request->phase;
  if (submit->orphan_ttl_ms() != 0) info.orphan_ms = submit->orphan_ttl_ms();
  info.instance = parts_.facts->identity.instance();
  info.generation = parts_.facts->identity.generation();
  const absl::StatusOr<RequestTable::Entered> entered =
      parts_.requests->Enter(info);
  if (!entered.ok()) return SubmitReactor::Refuse(context, entered.status());
  if (entered->is_new) {
    const absl::Status status =
        StartAttempt(*submit, *std::move(request), entered->attempt);
    if (!status.ok()) entered->attempt->OnFinished(status, Usage());
  }
  return SubmitReactor::Follow(context, entered->attempt, {});
}

absl::Status WorkerService::StartAttempt(
    const v1::SubmitRequest& submit, Request request,
    const std::shared_ptr<Attempt>& attempt) {
  const RequestKey key = request.key;
  if (request.phase == RequestPhase::kPrefill) {
    ASSIGN_OR_RETURN(const kvtransfer::Ticket ticket,
                     kvtransfer::FromProto(submit.ticket()));
    if (ticket.num_tokens != TokensToMove(request)) {
      return absl::InvalidArgumentError(
          absl::StrCat("ticket holds ", ticket.num_tokens,
                       " tokens, prompt and replay ", TokensToMove(request)));
    }
    const std::string transfer_id = submit.ticket().transfer_id();
    RETURN_IF_ERROR(parts_.handoff->prefill().Start(
        key, ticket,
        [attempt, transfer_id](const kvtransfer::TransferResult& result) {
          attempt->OnSent(transfer_id, result);
        }));
  } else if (request.phase == RequestPhase::kDecode) {
    RemotePrompt remote;
    remote.source = submit.source();
    remote.deadline_ms =
        TransferDeadlineMs(request, *parts_.facts, *parts_.clock);
    remote.recompute = parts_.facts->recompute_on_failure;
    remote.on_ticket = [attempt](const kvtransfer::Ticket& ticket) {
      attempt->OnTicket(kvtransfer::ToProto(ticket));
    };
    remote.on_transfer = [attempt](const kvtransfer::TransferResult& result) {
      attempt->OnReceived(result);
    };
    parts_.handoff->decode().Expect(key, std::move(remote));
    attempt->set_on_finished(
        [decode = &parts_.handoff->decode(), key] { decode->Forget(key); });
  }
  attempt->set_on_backlog([engine = parts_.engine, key](bool backlogged) {
    engine->SetPaused(key, backlogged);
  });
  parts_.engine->Submit(std::move(request), attempt);
  return absl::OkStatus();
}

grpc::ServerWriteReactor<v1::WorkerEvent>* WorkerService::Attach(
    grpc::CallbackServerContext* context,
    const v1::WorkerAttachRequest* request) {
  const absl::StatusOr<std::shared_ptr<Attempt>> attempt =
      parts_.requests->Find(request->request_id(), request->attempt());
  if (!attempt.ok()) return SubmitReactor::Refuse(context, attempt.status());
  std::map<uint32_t, uint32_t> next_position(request->next_position().begin(),
                                             request->next_position().end());
  return SubmitReactor::Follow(context, *attempt, std::move(next_position));
}

grpc::ServerUnaryReactor* WorkerService::Cancel(
    grpc::CallbackServerContext* context, const v1::CancelRequest* request,
    v1::CancelResponse* response) {
  const bool deadline = request->cause() == "deadline";
  response->set_found(parts_.requests->CancelRequest(
      request->request_id(), request->attempt(),
      deadline ? absl::DeadlineExceededError("deadline exceeded")
               : absl::CancelledError("cancelled")));
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<v1::DrainStatus>* WorkerService::Drain(
    grpc::CallbackServerContext* context, const v1::DrainRequest* request) {
  using Stream = QueueReactor<v1::DrainStatus>;
  const std::shared_ptr<Stream> stream = Stream::Start(context, nullptr);
  if (request->has_new_role() &&
      request->new_role() != parts_.facts->identity.role()) {
    stream->End(absl::UnimplementedError(absl::StrCat(
        "this worker cannot become ", v1::Role_Name(request->new_role()))));
    return stream.get();
  }
  parts_.drain->Start(request->budget_ms() != 0
                          ? request->budget_ms()
                          : parts_.default_drain_budget_ms,
                      "drain call");
  stream->Push(parts_.drain->Status());
  stream->Close();
  return stream.get();
}

grpc::ServerWriteReactor<v1::WorkerReport>* WorkerService::Report(
    grpc::CallbackServerContext* context, const v1::ReportRequest*) {
  using Stream = QueueReactor<v1::WorkerReport>;
  // The reader is known only after the stream is: a box ties the two.
  auto reader = std::make_shared<std::shared_ptr<ReportStream>>();
  Reporter* reporter = parts_.reporter;
  const std::shared_ptr<Stream> stream =
      Stream::Start(context, [reader, reporter] {
        reporter->Remove(reader->get());
        reader->reset();
      });
  *reader = std::make_shared<ReportStream>(stream);
  reporter->Add(*reader);
  return stream.get();
}

grpc::ServerUnaryReactor* WorkerService::Ledger(
    grpc::CallbackServerContext* context, const v1::LedgerRequest*,
    v1::LedgerResponse* response) {
  *response = parts_.ledger();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<v1::ModelCardChunk>* WorkerService::GetModelCard(
    grpc::CallbackServerContext* context, const v1::GetModelCardRequest*) {
  using Stream = QueueReactor<v1::ModelCardChunk>;
  const std::shared_ptr<Stream> stream = Stream::Start(context, nullptr);
  for (const v1::ModelCardChunk& chunk : card_chunks_) stream->Push(chunk);
  stream->Close();
  return stream.get();
}

}  // namespace sluice::worker
