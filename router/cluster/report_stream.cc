#include "router/cluster/report_stream.h"

#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/sha256.h"

namespace sluice::router {
namespace {

// A vocabulary of a million tokens with merges stays well below.
constexpr size_t kMaxCardBytes = 256u << 20;

}  // namespace

std::shared_ptr<ReportStream> ReportStream::Start(
    std::shared_ptr<const WorkerLink> link, const std::string& router_id,
    Callbacks callbacks) {
  std::shared_ptr<ReportStream> stream(
      new ReportStream(std::move(link), std::move(callbacks)));
  stream->self_ = stream;
  stream->request_.set_router_id(router_id);
  stream->link_->stub->async()->Report(&stream->context_, &stream->request_,
                                       stream.get());
  stream->StartRead(&stream->report_);
  stream->StartCall();
  return stream;
}

void ReportStream::OnReadDone(bool ok) {
  if (!ok) return;
  callbacks_.on_report(std::move(report_));
  report_.Clear();
  StartRead(&report_);
}

void ReportStream::OnDone(const grpc::Status& status) {
  callbacks_.on_end(FromGrpcStatus(status));
  std::shared_ptr<ReportStream> last = std::move(self_);
}

std::shared_ptr<CardFetch> CardFetch::Start(
    std::shared_ptr<const WorkerLink> link, OnCard on_card) {
  std::shared_ptr<CardFetch> fetch(
      new CardFetch(std::move(link), std::move(on_card)));
  fetch->self_ = fetch;
  fetch->link_->stub->async()->GetModelCard(&fetch->context_, &fetch->request_,
                                            fetch.get());
  fetch->StartRead(&fetch->chunk_);
  fetch->StartCall();
  return fetch;
}

void CardFetch::OnReadDone(bool ok) {
  if (!ok) return;
  if (content_.size() + chunk_.content().size() > kMaxCardBytes) {
    too_large_ = true;
    context_.TryCancel();
    return;
  }
  content_ += chunk_.content();
  if (!chunk_.sha256().empty()) sha256_ = chunk_.sha256();
  StartRead(&chunk_);
}

void CardFetch::OnDone(const grpc::Status& status) {
  if (too_large_) {
    on_card_(absl::InvalidArgumentError(
        absl::StrCat("model card has over ", kMaxCardBytes, " bytes")));
  } else if (!status.ok()) {
    on_card_(FromGrpcStatus(status));
  } else {
    on_card_(ParseCard(content_, sha256_));
  }
  std::shared_ptr<CardFetch> last = std::move(self_);
}

absl::StatusOr<CardFetch::Card> ParseCard(const std::string& content,
                                          const std::string& sha256) {
  const std::string found = ToHex(Sha256Of(content));
  if (found != sha256) {
    return absl::DataLossError(absl::StrCat("model card has digest ", found,
                                            ", its worker says ", sha256));
  }
  CardFetch::Card result;
  if (!result.card.ParseFromString(content)) {
    return absl::DataLossError("model card does not parse");
  }
  result.sha256 = sha256;
  return result;
}

}  // namespace sluice::router
