// sluice-router: takes requests and runs them on workers.

#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "base/admin_http.h"
#include "base/config.h"
#include "base/exit_code.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/process.h"
#include "base/version.h"
#include "proto/config.pb.h"
#include "router/server/http_client.h"
#include "router/server/router_config.h"
#include "router/server/router_process.h"
#include "router/server/smoke.h"

namespace sluice::router {
namespace {

constexpr char kUsage[] =
    "sluice-router [--config=FILE] [--FIELD=VALUE ...]\n"
    "  --check           print the effective configuration and exit\n"
    "  --version         print the version and exit\n"
    "  --probe=live|ready [--probe.address=HOST:PORT]\n"
    "  --smoke=HOST:PORT [--smoke.grpc=HOST:PORT]\n"
    "                    one chat over HTTP, and one native request, to a\n"
    "                    running router\n"
    "Fields: proto/config.proto, RouterConfig; for instance\n"
    "  --workers.static=127.0.0.1:9001 --server.http_address=0.0.0.0:8000\n";

// Tells main() of the first stop signal.
class StopSignal {
 public:
  void Notify() {
    MutexLock lock(mu_);
    stopped_ = true;
    changed_.NotifyAll();
  }
  void Wait() {
    MutexLock lock(mu_);
    while (!stopped_) changed_.Wait(mu_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
};

ExitCode Fail(StartPhase phase, const absl::Status& status) {
  std::fprintf(stderr, "sluice-router: %s\n",
               std::string(status.message()).c_str());
  return ExitCodeFor(phase, status);
}

ExitCode Probe(const CommandLine& command_line,
               const config::RouterConfig& config) {
  const std::string& address = command_line.probe_address.empty()
                                   ? config.server().probe_address()
                                   : command_line.probe_address;
  const auto status =
      HttpGetStatus(address, "/" + command_line.probe + "z", 2000);
  return status.ok() && *status == 200 ? ExitCode::kOk : ExitCode::kProbeFailed;
}

// Prints what was answered; false when nothing was.
bool Report(const char* surface, const absl::StatusOr<std::string>& text) {
  if (text.ok()) {
    std::printf("smoke over %s: %s\n", surface, text->c_str());
  } else {
    std::fprintf(stderr, "smoke over %s: %s\n", surface,
                 text.status().ToString().c_str());
  }
  return text.ok();
}

ExitCode Smoke(const std::string& http_address,
               const std::string& grpc_address) {
  bool ok = Report("http", HttpSmokeTest(http_address));
  if (ok && !grpc_address.empty()) ok = Report("grpc", SmokeTest(grpc_address));
  return ok ? ExitCode::kOk : ExitCode::kProbeFailed;
}

ExitCode Serve(const config::RouterConfig& config) {
  ConfigureLog({.role = "router",
                .instance = config.instance(),
                .level = *ParseLogLevel(config.log().level()),
                .format = *ParseLogFormat(config.log().format())});
  StopSignal stop;
  auto signals = SignalWatcher::Start({.on_stop = [&](int, int nth) {
    if (nth == 1) stop.Notify();
  }});
  if (!signals.ok()) return Fail(StartPhase::kRun, signals.status());
  Log(kInfo, "starting",
      {{"version", kVersion}, {"config", EffectiveConfig(config)}});
  auto process = RouterProcess::Start(config);
  if (!process.ok()) return Fail(StartPhase::kListen, process.status());
  RouterProcess& router = **process;
  Log(kInfo, "listening",
      {{"http", router.http_address()},
       {"grpc", router.grpc_address()},
       {"metrics", router.metrics_address()},
       {"probe", router.probe_address()}});
  stop.Wait();
  Log(kInfo, "draining", {{"budget_ms", config.drain().budget_ms()}});
  router.StartDrain();
  const bool drained = router.FinishDrain(config.drain().budget_ms());
  Log(drained ? kInfo : kWarn, "drained", {{"complete", drained}});
  return ExitCode::kOk;
}

ExitCode Main(int argc, char** argv) {
  const auto command_line =
      ParseCommandLine(argc, argv, {"smoke", "smoke.grpc"});
  if (!command_line.ok()) {
    return Fail(StartPhase::kCommandLine, command_line.status());
  }
  if (command_line->help) {
    std::fputs(kUsage, stdout);
    return ExitCode::kOk;
  }
  if (command_line->version) {
    std::printf("%s\n", VersionLine("sluice-router").c_str());
    return ExitCode::kOk;
  }
  if (auto smoke = command_line->own.find("smoke");
      smoke != command_line->own.end()) {
    const auto grpc = command_line->own.find("smoke.grpc");
    return Smoke(smoke->second,
                 grpc != command_line->own.end() ? grpc->second : "");
  }
  config::RouterConfig config;
  if (absl::Status status = LoadConfig(*command_line, config); !status.ok()) {
    return Fail(StartPhase::kConfig, status);
  }
  FillDefaults(config);
  if (!command_line->probe.empty()) return Probe(*command_line, config);
  if (absl::Status status = CheckConfig(config); !status.ok()) {
    return Fail(StartPhase::kConfig, status);
  }
  if (command_line->check) {
    std::fputs(EffectiveConfig(config).c_str(), stdout);
    return ExitCode::kOk;
  }
  return Serve(config);
}

}  // namespace
}  // namespace sluice::router

int main(int argc, char** argv) {
  sluice::ExitProcess(sluice::router::Main(argc, argv));
}
