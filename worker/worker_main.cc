#include "worker/worker_main.h"

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "base/admin_http.h"
#include "base/config.h"
#include "base/exit_code.h"
#include "base/health.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/metrics_endpoint.h"
#include "base/mutex.h"
#include "base/probe_port.h"
#include "base/process.h"
#include "base/process_metrics.h"
#include "base/version.h"
#include "proto/config.pb.h"
#include "worker/worker_options.h"
#include "worker/worker_process.h"

namespace sluice::worker {
namespace {

[[noreturn]] void Fail(StartPhase phase, const absl::Status& status) {
  std::fprintf(stderr, "sluice-worker: %s\n", status.ToString().c_str());
  ExitProcess(ExitCodeFor(phase, status));
}

int Probe(const CommandLine& command_line) {
  const std::string address = command_line.probe_address.empty()
                                  ? WorkerOptions().probe_address
                                  : command_line.probe_address;
  const absl::StatusOr<int> code = HttpGetStatus(
      address, command_line.probe == "live" ? "/livez" : "/readyz", 2000);
  return code.ok() && *code == 200 ? 0 : 1;
}

// The process that signals are for, once there is one.
class SignalTarget {
 public:
  void Set(WorkerProcess* process) {
    MutexLock lock(mu_);
    process_ = process;
    if (process_ != nullptr && asked_) process_->StartDrain("signal");
  }
  void Profile() {
    MutexLock lock(mu_);
    if (process_ != nullptr) process_->ProfileSteps();
  }
  // A stop before the worker serves ends the process at once.
  void Stop() {
    MutexLock lock(mu_);
    asked_ = true;
    if (process_ == nullptr) ExitProcess(ExitCode::kOk);
    process_->StartDrain("signal");
  }

 private:
  Mutex mu_;
  WorkerProcess* process_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool asked_ ABSL_GUARDED_BY(mu_) = false;
};

int Serve(const WorkerOptions& options, const std::string& effective,
          const TransferHooks& hooks) {
  ConfigureLog({.role = v1::Role_Name(options.role),
                .instance = options.instance,
                .level = options.log_level,
                .format = options.log_format});
  SignalTarget target;
  auto signals =
      SignalWatcher::Start({.on_stop = [&target](int, int) { target.Stop(); },
                            .on_profile = [&target] { target.Profile(); }});
  if (!signals.ok()) Fail(StartPhase::kRun, signals.status());
  Log(kInfo, "configuration", {{"effective", effective}});

  HealthBoard health(WorkerHealthOptions());
  MetricRegistry metrics;
  RegisterProcessMetrics("worker", metrics);
  health.Export(metrics);
  auto probe = ProbePort::Start(options.probe_address, health);
  if (!probe.ok()) Fail(StartPhase::kListen, probe.status());
  auto metrics_http =
      AdminHttp::Start({.address = options.metrics_address,
                        .handlers = {{"/metrics", MetricsHandler(metrics)}},
                        .thread_name = "metrics"});
  if (!metrics_http.ok()) Fail(StartPhase::kListen, metrics_http.status());

  StartFailure failure;
  std::unique_ptr<WorkerProcess> process =
      WorkerProcess::Start(options, health, metrics, hooks, failure);
  if (process == nullptr) Fail(failure.phase, failure.status);
  target.Set(process.get());
  process->Wait();
  Log(kInfo, "worker drained");
  FlushLog(1000);
  // Threads of the libraries need no orderly end, clients none after DRAINED.
  ExitProcess(ExitCode::kOk);
}

}  // namespace

int RunWorker(int argc, char** argv, const TransferHooks& hooks) {
  const absl::StatusOr<CommandLine> command_line = ParseCommandLine(argc, argv);
  if (!command_line.ok()) {
    Fail(StartPhase::kCommandLine, command_line.status());
  }
  if (command_line->version) {
    std::puts(VersionLine("sluice-worker").c_str());
    return 0;
  }
  if (!command_line->probe.empty()) return Probe(*command_line);
  config::WorkerConfig config;
  if (absl::Status status = LoadConfig(*command_line, config); !status.ok()) {
    Fail(StartPhase::kConfig, status);
  }
  if (command_line->help) {
    std::fputs(EffectiveConfig(config).c_str(), stdout);
    return 0;
  }
  const absl::StatusOr<WorkerOptions> options = MakeWorkerOptions(config);
  if (!options.ok()) Fail(StartPhase::kConfig, options.status());
  if (command_line->check) {
    const absl::StatusOr<std::string> text = CheckText(*options);
    if (!text.ok()) Fail(StartPhase::kModel, text.status());
    std::printf("%s%s", EffectiveConfig(config).c_str(), text->c_str());
    return 0;
  }
  return Serve(*options, EffectiveConfig(config), hooks);
}

}  // namespace sluice::worker
