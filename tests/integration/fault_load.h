#ifndef TESTS_INTEGRATION_FAULT_LOAD_H_
#define TESTS_INTEGRATION_FAULT_LOAD_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "tests/integration/local_cluster.h"

namespace sluice {

// The number of an environment variable, for longer runs by hand.
int FromEnvironment(const char* name, int by_default);

// A split cluster of a tiny model. Prompts go through small chunks and small
// blocks, so that transfers are long and many are open at any time.
struct FaultClusterSpec {
  std::string transport;  // shm, ucx
  int prefill = 1;        // p0, p1, ...
  int decode = 1;         // d0, d1, ...
  std::vector<std::string> flags;
  std::string worker_binary = "worker/sluice-worker";
};
absl::StatusOr<std::unique_ptr<LocalCluster>> StartFaultCluster(
    const FaultClusterSpec& spec);

// What must not grow in a process that outlives others.
struct Footprint {
  double descriptors = 0;
  double resident_mib = 0;
  double threads = 0;
  int mappings = 0;
};
Footprint FootprintOf(LocalCluster& cluster, const std::string& name);

// A request and what a run without faults answers to it.
struct KnownRequest {
  v1::GenerateRequest request;
  std::vector<uint32_t> tokens;
};

// `count` requests of 1..400 prompt tokens of the tiny models, greedy and
// seeded, with their answers of `cluster`, which must be whole and idle.
absl::StatusOr<std::vector<KnownRequest>> LearnRequests(LocalCluster& cluster,
                                                        int count,
                                                        uint32_t seed);

// How calls ended.
struct LoadReport {
  std::map<absl::StatusCode, int> ends;
  int wrong_tokens = 0;  // calls with a token that a clean run does not give
  int64_t longest_ms = 0;
  std::vector<std::string> complaints;  // the first of what must not be

  void Add(const LoadReport& other);
  int count(absl::StatusCode code) const;
  int total() const;
  std::string Text() const;
};

struct LoadOptions {
  int streams = 8;
  uint32_t seed = 1;
  double cancel_share = 0;  // of calls, cancelled by the client in between
  int64_t call_bound_ms = 30'000;  // a call that takes longer hangs
};

// Clients that call one after the other, each with a random known request;
// some of them bypass the prefix caches, so that all of their KV moves. Every
// call must end OK with all of its tokens, UNAVAILABLE with a true beginning of
// them, or, cancelled, CANCELLED: all else is a complaint.
class FaultLoad {
 public:
  // Borrows both.
  FaultLoad(LocalCluster& cluster, const std::vector<KnownRequest>& requests,
            const LoadOptions& options);
  // Stops if that has not been done.
  ~FaultLoad();

  // No call begins any more; returns when all have ended.
  LoadReport Stop();

 private:
  void RunStream(uint32_t seed);
  void CallOnce(uint64_t random, uint32_t stream);

  LocalCluster& cluster_;
  const std::vector<KnownRequest>& requests_;
  const LoadOptions options_;
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
  Mutex mu_;
  LoadReport report_ ABSL_GUARDED_BY(mu_);
};

// One known request, with nothing cached; not OK if it fails or its tokens are
// wrong.
absl::Status CallKnown(LocalCluster& cluster, const KnownRequest& known);

// Sum of the samples of `family` in `exposition` whose labels hold `label`
// (`name="value"`, empty: all); -1 when there is none.
double MetricOf(const std::string& exposition, const std::string& family,
                const std::string& label = "");

// Waits until no transfer is in flight on `name` and no block is active or
// quarantined there. Not OK after `bound_ms`, or when its ledger has ever been
// violated.
absl::Status AwaitQuiet(LocalCluster& cluster, const std::string& name,
                        int64_t bound_ms);

// Waits until `name` counts `peers` of its peers as up.
absl::Status AwaitPeers(LocalCluster& cluster, const std::string& name,
                        int peers, int64_t bound_ms);

}  // namespace sluice

#endif  // TESTS_INTEGRATION_FAULT_LOAD_H_
