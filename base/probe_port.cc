#include "base/probe_port.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>

#include <chrono>
#include <utility>
#include <vector>

#include "base/admin_http.h"
#include "base/health_service.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace sluice {
namespace {

constexpr std::chrono::seconds kShutdownGrace{1};
constexpr int kMaxMessageBytes = 16 * 1024;
// A prober that went away without a word; a Watch is not idle.
constexpr int kIdleConnectionMs = 60'000;

AdminReply Answer(bool ok, const std::vector<std::string>& reasons) {
  AdminReply reply;
  reply.status = ok ? 200 : 503;
  reply.content_type = "application/json";
  const nlohmann::json body = {{"status", ok ? "ok" : "unavailable"},
                               {"reasons", reasons}};
  reply.body = body.dump() + "\n";
  return reply;
}

}  // namespace

struct ProbePort::Parts {
  explicit Parts(HealthBoard& board) : health(board) {}
  ~Parts() {
    http.reset();  // gives no more connections away
    health.Shutdown();
    if (server != nullptr) {
      server->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
    }
  }

  HealthService health;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<AdminHttp> http;
};

absl::StatusOr<std::unique_ptr<ProbePort>> ProbePort::Start(
    const std::string& address, HealthBoard& board) {
  auto parts = std::make_unique<Parts>(board);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                             kIdleConnectionMs);
  builder.RegisterService(parts->health.service());
  parts->server = builder.BuildAndStart();
  if (parts->server == nullptr) {
    return absl::InternalError("the gRPC probe server did not start");
  }
  AdminHttpOptions options;
  options.address = address;
  options.thread_name = "probe";
  options.handlers["/livez"] = [&board](const AdminRequest&) {
    const std::vector<std::string> dead = board.dead_loops();
    return Answer(dead.empty(), dead);
  };
  options.handlers["/readyz"] = [&board](const AdminRequest&) {
    const std::vector<std::string> reasons = board.reasons();
    return Answer(reasons.empty(), reasons);
  };
  options.on_http2 = [server = parts->server.get()](int fd) {
    grpc::AddInsecureChannelFromFd(server, fd);
  };
  ASSIGN_OR_RETURN(parts->http, AdminHttp::Start(std::move(options)));
  return std::unique_ptr<ProbePort>(new ProbePort(std::move(parts)));
}

ProbePort::ProbePort(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

ProbePort::~ProbePort() = default;

int ProbePort::port() const { return parts_->http->port(); }

const std::string& ProbePort::address() const {
  return parts_->http->address();
}

}  // namespace sluice
