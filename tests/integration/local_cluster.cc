#include "tests/integration/local_cluster.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
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

constexpr char kRouterBinary[] = "router/sluice-router";

// A loopback address that nothing listens on. Below the ports that the kernel
// gives to outgoing connections: one of those must not take the address of a
// process that is away, nor a dialer reach itself there.
std::string FreeAddress() {
  constexpr int kFirst = 10000;
  constexpr int kEnd = 32000;
  static std::mt19937 random(std::random_device{}());
  static std::set<int> given;  // not bound yet, perhaps
  for (int tries = 0; tries < 1000; ++tries) {
    const int port =
        std::uniform_int_distribution<int>(kFirst, kEnd - 1)(random);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    SLUICE_CHECK(fd >= 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    const bool free =
        bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    close(fd);
    if (free && given.insert(port).second) {
      return absl::StrCat("127.0.0.1:", port);
    }
  }
  SLUICE_CHECK(false);
  return "";
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
  cluster->AddWorkers(spec);
  cluster->AddRouter(spec);
  for (Process& process : cluster->processes_) {
    RETURN_IF_ERROR(cluster->Launch(process));
  }
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

LocalCluster::Process& LocalCluster::Find(const std::string& name) {
  return const_cast<Process&>(std::as_const(*this).Find(name));
}

const LocalCluster::Process& LocalCluster::Find(const std::string& name) const {
  for (const Process& process : processes_) {
    if (process.name == name) return process;
  }
  SLUICE_CHECK(false);
  return processes_.front();
}

void LocalCluster::Add(Process process) {
  process.probe_address = FreeAddress();
  process.metrics_address = FreeAddress();
  for (const std::string& flag :
       {absl::StrCat("--server.grpc_address=", process.grpc_address),
        absl::StrCat("--server.probe_address=", process.probe_address),
        absl::StrCat("--server.metrics_address=", process.metrics_address),
        absl::StrCat("--instance=", process.name)}) {
    process.command.push_back(flag);
  }
  processes_.push_back(std::move(process));
}

absl::Status LocalCluster::Launch(Process& process) {
  std::vector<char*> arguments;
  for (std::string& argument : process.command) {
    arguments.push_back(argument.data());
  }
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
  return absl::OkStatus();
}

void LocalCluster::AddWorkers(const ClusterSpec& spec) {
  std::vector<std::string> addresses;
  for (size_t i = 0; i < spec.workers.size(); ++i) {
    addresses.push_back(FreeAddress());
  }
  for (size_t i = 0; i < spec.workers.size(); ++i) {
    const WorkerSpec& worker = spec.workers[i];
    std::vector<std::string> command = {
        spec.worker_binary, absl::StrCat("--model.path=", spec.model),
        absl::StrCat("--role=", worker.role)};
    if (spec.step_logs) {
      command.push_back(
          absl::StrCat("--debug.step_log=", StepLogOf(worker.instance)));
    }
    for (size_t j = 0; j < spec.workers.size(); ++j) {
      if (!Complementary(worker, spec.workers[j])) continue;
      command.push_back(absl::StrCat("--kv.peers=", addresses[j]));
    }
    for (const std::vector<std::string>& flags :
         {spec.worker_flags, worker.flags}) {
      command.insert(command.end(), flags.begin(), flags.end());
    }
    Add({.name = worker.instance,
         .grpc_address = addresses[i],
         .command = std::move(command)});
  }
}

void LocalCluster::AddRouter(const ClusterSpec& spec) {
  const std::string grpc_address = FreeAddress();
  http_address_ = FreeAddress();
  std::vector<std::string> command = {
      kRouterBinary, absl::StrCat("--server.http_address=", http_address_)};
  for (const Process& worker : processes_) {
    command.push_back(absl::StrCat("--workers.static=", worker.grpc_address));
  }
  command.insert(command.end(), spec.router_flags.begin(),
                 spec.router_flags.end());
  stub_ = v1::Inference::NewStub(
      grpc::CreateChannel(grpc_address, grpc::InsecureChannelCredentials()));
  Add({.name = "router",
       .grpc_address = grpc_address,
       .command = std::move(command)});
}

absl::Status LocalCluster::WaitReady(const std::vector<std::string>& names) {
  const auto deadline = SteadyClock::now() + std::chrono::seconds(120);
  for (Process& process : processes_) {
    if (!names.empty() &&
        std::find(names.begin(), names.end(), process.name) == names.end()) {
      continue;
    }
    while (true) {
      const auto status = HttpGetStatus(process.probe_address, "/readyz", 2000);
      if (status.ok() && *status == 200) break;
      const bool ended = !IsRunning(process.name);
      if (ended || SteadyClock::now() > deadline) {
        return absl::UnavailableError(absl::StrCat(
            process.name, " did not become ready: ", EndOfLog(process.name)));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  return absl::OkStatus();
}

void LocalCluster::Signal(const std::string& name, int signal) {
  const Process& process = Find(name);
  if (process.pid > 0) kill(process.pid, signal);
}

bool LocalCluster::IsRunning(const std::string& name) {
  Process& process = Find(name);
  if (process.pid <= 0) return false;
  int code = 0;
  if (waitpid(process.pid, &code, WNOHANG) == 0) return true;
  process.pid = 0;
  return false;
}

absl::Status LocalCluster::Kill(const std::string& name) {
  Process& process = Find(name);
  if (process.pid <= 0) {
    return absl::FailedPreconditionError(absl::StrCat(name, " does not run"));
  }
  kill(process.pid, SIGKILL);
  int code = 0;
  waitpid(process.pid, &code, 0);
  process.pid = 0;
  if (WIFSIGNALED(code) && WTERMSIG(code) == SIGKILL) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(name, " had ended with wait status ",
                                          code, ": ", EndOfLog(name)));
}

absl::Status LocalCluster::Restart(const std::string& name) {
  Process& process = Find(name);
  if (process.pid > 0) {
    return absl::FailedPreconditionError(absl::StrCat(name, " runs"));
  }
  return Launch(process);
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

std::string LocalCluster::AddressOf(const std::string& instance) const {
  return Find(instance).grpc_address;
}

pid_t LocalCluster::PidOf(const std::string& name) const {
  return Find(name).pid;
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
