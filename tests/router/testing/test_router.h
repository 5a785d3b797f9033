#ifndef TESTS_ROUTER_TESTING_TEST_ROUTER_H_
#define TESTS_ROUTER_TESTING_TEST_ROUTER_H_

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "router/flow/request_router.h"
#include "router/server/compute_pool.h"
#include "router/server/inference_service.h"
#include "tests/router/testing/fake_worker.h"

namespace sluice::router {

struct TestRouterOptions {
  WaitLimits queue;
  FlowLimits limits;
  uint32_t max_inflight = 16'384;
  // Fake workers report only when something changes.
  int64_t silent_ms = 600'000;
  int64_t lost_ms = 600'000;
};

// A router over fake workers, with its native API on loopback.
class TestRouter {
 public:
  explicit TestRouter(const std::vector<FakeWorker*>& workers,
                      const TestRouterOptions& options = {});
  ~TestRouter();

  // Every worker given is heard of and a path exists.
  bool WaitReady();
  // No live flow and no spent credit is left.
  bool WaitIdle();
  RequestRouter& router() { return *router_; }
  v1::Inference::Stub& stub() { return *stub_; }
  // The value of a series in the text exposition; -1: there is none.
  double Metric(const std::string& series);

 private:
  const size_t num_workers_;
  MetricRegistry metrics_;
  std::unique_ptr<RequestRouter> router_;
  ComputePool compute_{2, 2};
  std::unique_ptr<InferenceService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

// Both report a link to each other that is up.
void Link(FakeWorker& a, FakeWorker& b);

// What a client saw of one Generate call.
struct Result {
  grpc::Status status;
  std::vector<v1::GenerateEvent> events;
  v1::Started started;
  std::map<uint32_t, std::string> text;
  std::map<uint32_t, std::vector<uint32_t>> ids;
  std::map<uint32_t, v1::ChoiceEnd> ends;
  v1::RequestEnd end;
};

Result Generate(TestRouter& router, const v1::GenerateRequest& request);

// A text request to the byte model, with output BOTH and at most 50 tokens.
v1::GenerateRequest TextRequest(const std::string& text);

}  // namespace sluice::router

#endif  // TESTS_ROUTER_TESTING_TEST_ROUTER_H_
