#include "tests/integration/local_cluster.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/admin_http.h"
#include "base/check.h"
#include "base/grpc_status.h"
#include "base/status_macros.h"
#include "router/server/http_client.h"

namespace sluice {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr char kWorkerBinary[] = "worker/sluice-worker";
constexpr char kRouterBinary[] = "router/sluice-router";

// A loopback address that nothing listened on a moment ago.
std::string FreeAddress() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  SLUICE_CHECK(fd >= 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* any = reinterpret_cast<sockaddr*>(&address);
  SLUICE_CHECK(bind(fd, any, size) == 0);
  SLUICE_CHECK(getsockname(fd, any, &size) == 0);
  close(fd);
  return absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
}

std::string NewFolder() {
  const char* root = std::getenv("TEST_TMPDIR");
  std::string folder =
      absl::StrCat(root == nullptr ? "/tmp" : root, "/cluster_XXXXXX");
  SLUICE_CHECK(mkdtemp(folder.data()) != nullptr);
  return folder;
}

bool Complementary(const WorkerSpec& a, const WorkerSpec& b) {
  return (a.role == "prefill" && b.role == "decode") ||
         (a.role == "decode" && b.role == "prefill");
}

}  // namespace

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(
    const ClusterSpec& spec) {
  std::unique_ptr<LocalCluster> cluster(new LocalCluster(NewFolder()));
  RETURN_IF_ERROR(cluster->StartWorkers(spec));
  RETURN_IF_ERROR(cluster->StartRouter(spec));
  RETURN_IF_ERROR(cluster->WaitReady());
  return cluster;
}

LocalCluster::~LocalCluster() {
  for (const Process& process : processes_) {
    if (process.pid > 0) kill(process.pid, SIGKILL);
  }
  for (const Process& process : processes_) {
    if (process.pid > 0) waitpid(process.pid, nullptr, 0);
  }
}

absl::Status LocalCluster::Launch(Process process,
                                  std::vector<std::string> command) {
  command.push_back(
      absl::StrCat("--server.probe_address=", process.probe_address));
  command.push_back(
      absl::StrCat("--server.metrics_address=", process.metrics_address));
  command.push_back(absl::StrCat("--instance=", process.name));
  std::vector<char*> arguments;
  for (std::string& argument : command) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  const std::string log = absl::StrCat(folder_, "/", process.name, ".log");
  process.pid = fork();
  if (process.pid < 0) return absl::ErrnoToStatus(errno, "fork");
  if (process.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, STDOUT_FILENO);
    dup2(fd, STDERR_FILENO);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  processes_.push_back(std::move(process));
  return absl::OkStatus();
}

absl::Status LocalCluster::StartWorkers(const ClusterSpec& spec) {
  for (size_t i = 0; i < spec.workers.size(); ++i) {
    worker_addresses_.push_back(FreeAddress());
  }
  for (size_t i = 0; i < spec.workers.size(); ++i) {
    const WorkerSpec& worker = spec.workers[i];
    std::vector<std::string> command = {
        kWorkerBinary, absl::StrCat("--model.path=", spec.model),
        absl::StrCat("--role=", worker.role),
        absl::StrCat("--server.grpc_address=", worker_addresses_[i]),
        absl::StrCat("--debug.step_log=", StepLogOf(worker.instance))};
    for (size_t j = 0; j < spec.workers.size(); ++j) {
      if (!Complementary(worker, spec.workers[j])) continue;
      command.push_back(absl::StrCat("--kv.peers=", worker_addresses_[j]));
    }
    for (const std::vector<std::string>& flags :
         {spec.worker_flags, worker.flags}) {
      command.insert(command.end(), flags.begin(), flags.end());
    }
    RETURN_IF_ERROR(Launch({.name = worker.instance,
                            .pid = 0,
                            .probe_address = FreeAddress(),
                            .metrics_address = FreeAddress()},
                           std::move(command)));
  }
  return absl::OkStatus();
}

absl::Status LocalCluster::StartRouter(const ClusterSpec& spec) {
  const std::string grpc_address = FreeAddress();
  http_address_ = FreeAddress();
  std::vector<std::string> command = {
      kRouterBinary, absl::StrCat("--server.grpc_address=", grpc_address),
      absl::StrCat("--server.http_address=", http_address_)};
  for (const std::string& address : worker_addresses_) {
    command.push_back(absl::StrCat("--workers.static=", address));
  }
  command.insert(command.end(), spec.router_flags.begin(),
                 spec.router_flags.end());
  stub_ = v1::Inference::NewStub(
      grpc::CreateChannel(grpc_address, grpc::InsecureChannelCredentials()));
  return Launch({.name = "router",
                 .pid = 0,
                 .probe_address = FreeAddress(),
                 .metrics_address = FreeAddress()},
                std::move(command));
}

absl::Status LocalCluster::WaitReady() {
  const auto deadline = SteadyClock::now() + std::chrono::seconds(120);
  for (Process& process : processes_) {
    while (true) {
      const auto status = HttpGetStatus(process.probe_address, "/readyz", 2000);
      if (status.ok() && *status == 200) break;
      int code = 0;
      const bool ended = waitpid(process.pid, &code, WNOHANG) == process.pid;
      if (ended) process.pid = 0;
      if (ended || SteadyClock::now() > deadline) {
        return absl::UnavailableError(absl::StrCat(
            process.name, " did not become ready: ", EndOfLog(process.name)));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ClusterAnswer> LocalCluster::Generate(
    const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::minutes(4));
  auto reader = stub_->Generate(&context, request);
  ClusterAnswer answer;
  for (v1::GenerateEvent event; reader->Read(&event);) {
    if (event.has_started()) answer.started = event.started();
    if (event.has_end()) answer.end = event.end();
    if (event.has_delta() && event.delta().choice() == 0) {
      answer.tokens.insert(answer.tokens.end(),
                           event.delta().token_ids().begin(),
                           event.delta().token_ids().end());
    }
  }
  RETURN_IF_ERROR(FromGrpcStatus(reader->Finish()));
  return answer;
}

absl::Status LocalCluster::Stop() {
  for (const Process& process : processes_) {
    if (process.pid > 0) kill(process.pid, SIGTERM);
  }
  const auto deadline = SteadyClock::now() + std::chrono::minutes(1);
  absl::Status status;
  for (Process& process : processes_) {
    if (process.pid <= 0) continue;
    int code = 0;
    while (waitpid(process.pid, &code, WNOHANG) == 0) {
      if (SteadyClock::now() > deadline) {
        return absl::DeadlineExceededError(absl::StrCat(
            process.name,
            " does not end after SIGTERM: ", EndOfLog(process.name)));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    process.pid = 0;
    if (!WIFEXITED(code) || WEXITSTATUS(code) != 0) {
      status.Update(absl::InternalError(
          absl::StrCat(process.name, " ended with wait status ", code, ": ",
                       EndOfLog(process.name))));
    }
  }
  return status;
}

std::string LocalCluster::Metrics(const std::string& name) const {
  for (const Process& process : processes_) {
    if (process.name != name) continue;
    const auto answer =
        router::HttpCall(process.metrics_address, "/metrics", "", 5000);
    return answer.ok() ? answer->body : "";
  }
  return "";
}

std::string LocalCluster::StepLogOf(const std::string& instance) const {
  return absl::StrCat(folder_, "/", instance, ".steps");
}

std::string LocalCluster::EndOfLog(const std::string& name) const {
  std::ifstream file(absl::StrCat(folder_, "/", name, ".log"));
  std::string text((std::istreambuf_iterator<char>(file)),
                   std::istreambuf_iterator<char>());
  constexpr size_t kShown = 2000;
  return text.size() <= kShown ? text : text.substr(text.size() - kShown);
}

}  // namespace sluice
