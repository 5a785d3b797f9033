#ifndef TESTS_ROUTER_TESTING_FAKE_WORKER_H_
#define TESTS_ROUTER_TESTING_FAKE_WORKER_H_

#include <grpcpp/grpcpp.h>

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "proto/worker.grpc.pb.h"

namespace sluice::router {

// A server stream that a test writes to from any thread.
template <typename Message>
class TestStream final
    : public grpc::ServerWriteReactor<Message>,
      public std::enable_shared_from_this<TestStream<Message>> {
 public:
  void Open() { self_ = this->shared_from_this(); }
  void Send(Message message) {
    {
      MutexLock lock(mu_);
      if (final_.has_value()) return;
      queue_.push_back(std::move(message));
    }
    Advance();
  }
  void End(grpc::Status status) {
    {
      MutexLock lock(mu_);
      if (final_.has_value()) return;
      final_ = std::move(status);
    }
    Advance();
  }
  bool cancelled() const {
    MutexLock lock(mu_);
    return cancelled_;
  }
  // Messages gRPC has taken so far.
  size_t num_written() const {
    MutexLock lock(mu_);
    return num_written_;
  }

 private:
  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mu_);
      writing_ = false;
      num_written_ += ok;
      if (!ok) queue_.clear();
    }
    Advance();
  }
  void OnCancel() override {
    {
      MutexLock lock(mu_);
      cancelled_ = true;
    }
    End(grpc::Status::CANCELLED);
  }
  void OnDone() override { auto last = std::move(self_); }

  void Advance() {
    bool write = false;
    {
      MutexLock lock(mu_);
      if (writing_ || finished_) return;
      if (cancelled_) queue_.clear();
      if (!queue_.empty()) {
        current_ = std::move(queue_.front());
        queue_.pop_front();
        write = writing_ = true;
      } else if (final_.has_value()) {
        finished_ = true;
      } else {
        return;
      }
    }
    if (write) {
      this->StartWrite(&current_);
    } else {
      this->Finish(*final_);
    }
  }

  std::shared_ptr<TestStream> self_;
  mutable Mutex mu_;
  std::deque<Message> queue_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> final_;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  size_t num_written_ ABSL_GUARDED_BY(mu_) = 0;
  Message current_;
};

using SubmitStream = TestStream<v1::WorkerEvent>;
using ReportOutput = TestStream<v1::WorkerReport>;

// A model whose token ids are byte values; 256 begins and 257 ends a text.
v1::ModelCard ByteModelCard(const std::string& name = "m");
inline constexpr uint32_t kByteEos = 257;

// One Submit call as a worker got it.
struct FakeDispatch {
  v1::SubmitRequest request;
  std::shared_ptr<SubmitStream> stream;
};

// A Worker service in this process, on loopback, that does what a test says.
// Thread-safe.
class FakeWorker final : public v1::Worker::CallbackService {
 public:
  // Runs on gRPC's thread at each Submit.
  using OnSubmit = std::function<void(const FakeDispatch&)>;

  FakeWorker(const std::string& instance, v1::Role role,
             OnSubmit on_submit = {});
  ~FakeWorker() override;

  const std::string& address() const { return address_; }
  const v1::WorkerReport& report() const { return report_; }
  // Changes what is reported, and reports it at once.
  void Report(const std::function<void(v1::WorkerReport&)>& change);
  void set_card(v1::ModelCard card);
  // All streams and the port are gone, as when the process is killed.
  void Kill();

  std::vector<FakeDispatch> submits() const;
  // Waits until `num` submits have come; CHECKs after 10 s.
  FakeDispatch WaitSubmit(size_t num = 1) const;
  void WaitCancels(size_t num) const;
  std::vector<v1::CancelRequest> cancels() const;
  size_t num_reports_sent() const;

 private:
  grpc::ServerWriteReactor<v1::WorkerEvent>* Submit(
      grpc::CallbackServerContext* context,
      const v1::SubmitRequest* request) override;
  grpc::ServerWriteReactor<v1::WorkerReport>* Report(
      grpc::CallbackServerContext* context,
      const v1::ReportRequest* request) override;
  grpc::ServerWriteReactor<v1::ModelCardChunk>* GetModelCard(
      grpc::CallbackServerContext* context,
      const v1::GetModelCardRequest* request) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const v1::CancelRequest* request,
                                   v1::CancelResponse* response) override;

  const OnSubmit on_submit_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  mutable Mutex mu_;
  mutable CondVar changed_;
  v1::WorkerReport report_;
  v1::ModelCard card_;
  std::vector<FakeDispatch> submits_ ABSL_GUARDED_BY(mu_);
  std::vector<v1::CancelRequest> cancels_ ABSL_GUARDED_BY(mu_);
  std::vector<std::shared_ptr<ReportOutput>> reports_ ABSL_GUARDED_BY(mu_);
  size_t num_reports_sent_ ABSL_GUARDED_BY(mu_) = 0;
};

// Events of a worker.
v1::WorkerEvent AdmittedEvent(uint32_t cached_tokens = 0,
                              bool with_ticket = false);
// One token per byte of `text`.
v1::WorkerEvent DeltaEvent(uint32_t choice, uint32_t first_position,
                           const std::string& text);
v1::WorkerEvent ChoiceEndEvent(uint32_t choice, uint32_t positions,
                               v1::ChoiceEnd::Reason reason);
v1::WorkerEvent EndEventOf(uint64_t transfer_bytes = 0);
v1::WorkerEvent PrefillDoneEvent();

// Answers every submit with `text` for each choice, token by token, as a
// worker of that phase would.
FakeWorker::OnSubmit Answering(const std::string& text);

// Waits until `done()`, at most 10 s; false: it never was.
bool Eventually(const std::function<bool()>& done);

}  // namespace sluice::router

#endif  // TESTS_ROUTER_TESTING_FAKE_WORKER_H_
