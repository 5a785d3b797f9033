#include "tests/router/testing/fake_worker.h"

#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sha256.h"

namespace sluice::router {
namespace {

constexpr std::chrono::seconds kPatience(10);

// GPT-2's printable character for a byte, as UTF-8.
std::string AlphabetChar(int byte) {
  static const std::vector<int>* table = [] {
    auto* t = new std::vector<int>(256);
    int extra = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable =
          (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      (*t)[b] = printable ? b : extra++;
    }
    return t;
  }();
  const int c = (*table)[byte];
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | c >> 6),
          static_cast<char>(0x80 | (c & 0x3F))};
}

}  // namespace

v1::ModelCard ByteModelCard(const std::string& name) {
  v1::ModelCard card;
  card.set_model(name);
  card.set_model_digest(std::string(32, '\x5a'));
  card.set_numerics_id("x86.1/0011223344556677");
  card.set_max_context(1000);
  card.set_kv_hash_root_fingerprint(std::string(32, '\x17'));
  card.set_block_tokens(4);
  card.set_architecture("llama");
  v1::TokenizerCard& tokenizer = *card.mutable_tokenizer();
  tokenizer.set_kind("gguf");
  tokenizer.set_gguf_model("gpt2");
  tokenizer.set_gguf_pre("gpt-2");
  for (int byte = 0; byte < 256; ++byte) {
    tokenizer.add_tokens(AlphabetChar(byte));
    tokenizer.add_token_types(1);
  }
  for (const char* special : {"<|bos|>", "<|end|>"}) {
    tokenizer.add_tokens(special);
    tokenizer.add_token_types(3);
  }
  tokenizer.add_tokens("~~");
  tokenizer.add_token_types(1);
  tokenizer.add_merges("~ ~");
  tokenizer.set_bos_id(256);
  tokenizer.set_eos_id(kByteEos);
  card.add_eos_token_ids(kByteEos);
  card.set_vocab(static_cast<uint32_t>(tokenizer.tokens_size()));
  card.set_chat_template(
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
      "{% if add_generation_prompt %}<assistant>{% endif %}");
  return card;
}

FakeWorker::FakeWorker(const std::string& instance, v1::Role role,
                       OnSubmit on_submit)
    : on_submit_(std::move(on_submit)), card_(ByteModelCard()) {
  v1::Identity& identity = *report_.mutable_identity();
  identity.set_instance(instance);
  identity.set_generation(1);
  identity.set_role(role);
  identity.set_model(card_.model());
  identity.set_model_digest(card_.model_digest());
  identity.set_numerics_id(card_.numerics_id());
  identity.set_max_context(card_.max_context());
  report_.set_state(v1::SERVING);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                           &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  SLUICE_CHECK(server_ != nullptr);
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeWorker::~FakeWorker() { Kill(); }

void FakeWorker::Kill() {
  if (server_ == nullptr) return;
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
  server_ = nullptr;
}

void FakeWorker::Report(const std::function<void(v1::WorkerReport&)>& change) {
  std::vector<std::shared_ptr<ReportOutput>> outputs;
  v1::WorkerReport report;
  {
    MutexLock lock(mu_);
    change(report_);
    report_.set_sequence(report_.sequence() + 1);
    report = report_;
    outputs = reports_;
    report_.clear_events();  // a change is told once
    num_reports_sent_ += outputs.size();
  }
  for (const auto& output : outputs) output->Send(report);
}

void FakeWorker::set_card(v1::ModelCard card) {
  MutexLock lock(mu_);
  card_ = std::move(card);
}

std::vector<FakeDispatch> FakeWorker::submits() const {
  MutexLock lock(mu_);
  return submits_;
}

FakeDispatch FakeWorker::WaitSubmit(size_t num) const {
  SLUICE_CHECK(Eventually([&] { return submits().size() >= num; }));
  return submits()[num - 1];
}

void FakeWorker::WaitCancels(size_t num) const {
  SLUICE_CHECK(Eventually([&] { return cancels().size() >= num; }));
}

std::vector<v1::CancelRequest> FakeWorker::cancels() const {
  MutexLock lock(mu_);
  return cancels_;
}

size_t FakeWorker::num_reports_sent() const {
  MutexLock lock(mu_);
  return num_reports_sent_;
}

grpc::ServerWriteReactor<v1::WorkerEvent>* FakeWorker::Submit(
    grpc::CallbackServerContext*, const v1::SubmitRequest* request) {
  auto stream = std::make_shared<SubmitStream>();
  stream->Open();
  FakeDispatch submit{.request = *request, .stream = stream};
  {
    MutexLock lock(mu_);
    submits_.push_back(submit);
  }
  if (on_submit_) on_submit_(submit);
  return stream.get();
}

grpc::ServerWriteReactor<v1::WorkerReport>* FakeWorker::Report(
    grpc::CallbackServerContext*, const v1::ReportRequest*) {
  auto stream = std::make_shared<ReportOutput>();
  stream->Open();
  v1::WorkerReport report;
  {
    MutexLock lock(mu_);
    reports_.push_back(stream);
    report = report_;
    ++num_reports_sent_;
  }
  stream->Send(report);
  return stream.get();
}

grpc::ServerWriteReactor<v1::ModelCardChunk>* FakeWorker::GetModelCard(
    grpc::CallbackServerContext*, const v1::GetModelCardRequest*) {
  auto stream = std::make_shared<TestStream<v1::ModelCardChunk>>();
  stream->Open();
  std::string content;
  {
    MutexLock lock(mu_);
    content = card_.SerializeAsString();
  }
  const size_t half = content.size() / 2;
  v1::ModelCardChunk first;
  first.set_content(content.substr(0, half));
  v1::ModelCardChunk last;
  last.set_content(content.substr(half));
  last.set_sha256(ToHex(Sha256Of(content)));
  stream->Send(first);
  stream->Send(last);
  stream->End(grpc::Status::OK);
  return stream.get();
}

grpc::ServerUnaryReactor* FakeWorker::Cancel(
    grpc::CallbackServerContext* context, const v1::CancelRequest* request,
    v1::CancelResponse* response) {
  response->set_found(true);
  {
    MutexLock lock(mu_);
    cancels_.push_back(*request);
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

v1::WorkerEvent AdmittedEvent(uint32_t cached_tokens, bool with_ticket) {
  v1::WorkerEvent event;
  event.mutable_admitted()->set_cached_tokens(cached_tokens);
  if (with_ticket) {
    event.mutable_admitted()->mutable_ticket()->set_transfer_id(
        "0123456789abcdef");
  }
  return event;
}

v1::WorkerEvent DeltaEvent(uint32_t choice, uint32_t first_position,
                           const std::string& text) {
  v1::WorkerEvent event;
  v1::TokenDelta& delta = *event.mutable_delta();
  delta.set_choice(choice);
  delta.set_first_position(first_position);
  for (char c : text) delta.add_token_ids(static_cast<unsigned char>(c));
  return event;
}

v1::WorkerEvent ChoiceEndEvent(uint32_t choice, uint32_t positions,
                               v1::ChoiceEnd::Reason reason) {
  v1::WorkerEvent event;
  event.mutable_choice_end()->set_choice(choice);
  event.mutable_choice_end()->set_positions(positions);
  event.mutable_choice_end()->set_reason(reason);
  return event;
}

v1::WorkerEvent EndEventOf(uint64_t transfer_bytes) {
  v1::WorkerEvent event;
  v1::Timing& timing = *event.mutable_end()->mutable_timing();
  if (transfer_bytes > 0) {
    timing.set_transfer_bytes(transfer_bytes);
    timing.set_transfer_transport("loopback");
  }
  return event;
}

v1::WorkerEvent PrefillDoneEvent() {
  v1::WorkerEvent event;
  event.mutable_prefill_done()->set_state(v1::COMPLETED);
  return event;
}

FakeWorker::OnSubmit Answering(const std::string& text) {
  return [text](const FakeDispatch& submit) {
    SubmitStream& stream = *submit.stream;
    const auto phase = submit.request.phase();
    if (phase == v1::SubmitRequest::PHASE_PREFILL) {
      stream.Send(AdmittedEvent(3));
      stream.Send(PrefillDoneEvent());
      stream.Send(EndEventOf());
      stream.End(grpc::Status::OK);
      return;
    }
    const bool both = phase == v1::SubmitRequest::PHASE_BOTH;
    stream.Send(AdmittedEvent(both ? 2 : 0, /*with_ticket=*/!both));
    const uint32_t n = std::max(1u, submit.request.sampling().n());
    const uint32_t size = static_cast<uint32_t>(text.size());
    for (uint32_t i = 0; i < size; ++i) {
      for (uint32_t c = 0; c < n; ++c) {
        stream.Send(DeltaEvent(c, i, text.substr(i, 1)));
      }
    }
    for (uint32_t c = 0; c < n; ++c) {
      stream.Send(ChoiceEndEvent(c, size, v1::ChoiceEnd::LENGTH));
    }
    stream.Send(EndEventOf(both ? 0 : 4096));
    stream.End(grpc::Status::OK);
  };
}

bool Eventually(const std::function<bool()>& done) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!done()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

}  // namespace sluice::router
