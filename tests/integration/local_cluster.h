#ifndef TESTS_INTEGRATION_LOCAL_CLUSTER_H_
#define TESTS_INTEGRATION_LOCAL_CLUSTER_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/inference.grpc.pb.h"

namespace sluice {

struct WorkerSpec {
  std::string instance;
  std::string role;                // mixed, prefill, decode
  std::vector<std::string> flags;  // beside addresses, model and peers
};

struct ClusterSpec {
  std::string model;
  std::vector<WorkerSpec> workers;
  std::vector<std::string> worker_flags;  // of every worker
  std::vector<std::string> router_flags;
  bool step_logs = true;  // workers write what StepLogOf() names
  std::string worker_binary = "worker/sluice-worker";
};

// The tokens of a request's first choice, and how the router saw it end.
struct ClusterAnswer {
  std::vector<uint32_t> tokens;
  v1::Started started;
  v1::RequestEnd end;
};

// One router and some workers as real processes of the built binaries, on free
// loopback ports, with their logs and step logs in a folder of its own.
// Prefill and decode workers are each other's peers. Used by one thread,
// except Generate, which any thread may call. The destructor kills what runs.
class LocalCluster {
 public:
  // Starts everything and waits until all is ready; kUnavailable with the end
  // of the log of what did not become so.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(
      const ClusterSpec& spec);
  ~LocalCluster();
  LocalCluster(const LocalCluster&) = delete;
  LocalCluster& operator=(const LocalCluster&) = delete;

  // Blocks until the stream ends; its status when that is not OK.
  absl::StatusOr<ClusterAnswer> Generate(const v1::GenerateRequest& request);
  // The router's service, for calls with a context of their own.
  v1::Inference::Stub& stub() { return *stub_; }

  // Sends `signal` to `name`, a worker's instance or "router".
  void Signal(const std::string& name, int signal);
  // SIGKILL, and waits for the end. Not OK, with the wait status and the end of
  // the log, when it had ended by itself before.
  absl::Status Kill(const std::string& name);
  // Starts what was killed again with the same command line, hence on the same
  // addresses; does not wait until it is ready.
  absl::Status Restart(const std::string& name);
  // Until all of `names` (empty: everything) are ready.
  absl::Status WaitReady(const std::vector<std::string>& names = {});
  // Whether `name` runs; false after it ended by itself, and then for ever.
  bool IsRunning(const std::string& name);

  // Sends SIGTERM to the workers and the router and waits for all of them to
  // end. Not OK, naming the process, when one does not end in a minute or
  // with exit code 0.
  absl::Status Stop();

  // What `name`, a worker's instance or "router", exports on /metrics; empty
  // when it does not answer.
  std::string Metrics(const std::string& name) const;

  std::string StepLogOf(const std::string& instance) const;
  std::string EndOfLog(const std::string& name) const;

  const std::string& http_address() const { return http_address_; }
  // Of the worker's gRPC services.
  std::string AddressOf(const std::string& instance) const;
  pid_t PidOf(const std::string& name) const;

 private:
  struct Process {
    std::string name;
    pid_t pid = 0;
    std::string probe_address;
    std::string metrics_address;
    std::string grpc_address;
    std::vector<std::string> command;
  };

  explicit LocalCluster(std::string folder) : folder_(std::move(folder)) {}

  void Add(Process process);
  absl::Status Launch(Process& process);
  void AddWorkers(const ClusterSpec& spec);
  void AddRouter(const ClusterSpec& spec);
  Process& Find(const std::string& name);
  const Process& Find(const std::string& name) const;

  const std::string folder_;
  std::vector<Process> processes_;  // workers in order, then the router
  std::string http_address_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace sluice

#endif  // TESTS_INTEGRATION_LOCAL_CLUSTER_H_
