// One chat request over the router's gRPC API: prints the text as it streams,
// then one line of what it cost. Exit 1 with the status when it fails.

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "proto/inference.grpc.pb.h"

namespace sluice {
namespace {

using SteadyClock = std::chrono::steady_clock;

struct Options {
  std::string address = "127.0.0.1:8001";
  std::string prompt = "Write one sentence about the sea.";
  uint32_t max_tokens = 64;
};

constexpr char kUsage[] =
    "usage: chat [--address=HOST:PORT] [--prompt=TEXT] [--max_tokens=N]\n";

bool Parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const std::string value =
        equals == std::string::npos ? "" : argument.substr(equals + 1);
    if (name == "--address") {
      options.address = value;
    } else if (name == "--prompt") {
      options.prompt = value;
    } else if (name == "--max_tokens") {
      if (!absl::SimpleAtoi(value, &options.max_tokens)) return false;
    } else {
      std::fprintf(stderr, "chat: unknown flag %s\n", argument.c_str());
      return false;
    }
  }
  return true;
}

double Seconds(SteadyClock::duration d) {
  return std::chrono::duration<double>(d).count();
}

v1::GenerateRequest MakeRequest(const Options& options) {
  v1::GenerateRequest request;
  const nlohmann::json messages = {
      {{"role", "user"}, {"content", options.prompt}}};
  request.mutable_chat()->set_messages_json(messages.dump());
  request.set_output(v1::BOTH);
  request.set_include_timing(true);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(options.max_tokens);
  return request;
}

int Run(const Options& options) {
  auto stub = v1::Inference::NewStub(
      grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(120));
  const auto begin = SteadyClock::now();
  auto first = begin;
  auto last = begin;
  uint32_t tokens = 0;
  v1::RequestEnd end;
  auto reader = stub->Generate(&context, MakeRequest(options));
  for (v1::GenerateEvent event; reader->Read(&event);) {
    if (event.has_delta()) {
      last = SteadyClock::now();
      if (tokens == 0) first = last;
      tokens += event.delta().token_ids_size();
      std::fputs(event.delta().text().c_str(), stdout);
      std::fflush(stdout);
    } else if (event.has_end()) {
      end = event.end();
    }
  }
  const grpc::Status status = reader->Finish();
  std::fputs("\n", stdout);
  if (!status.ok()) {
    std::fprintf(stderr, "chat: code %d: %s\n", status.error_code(),
                 status.error_message().c_str());
    return 1;
  }
  const double decode_seconds = Seconds(last - first);
  const v1::Timing& timing = end.timing();
  std::string transport = timing.transfer_transport();
  if (transport.empty()) transport = "none";
  absl::PrintF(
      "prompt %d tokens, %d cached, first token %.1f ms, %.1f tokens/s, "
      "%d KV bytes moved in %d ms over %s\n",
      end.prompt_tokens(), end.cached_tokens(), Seconds(first - begin) * 1e3,
      decode_seconds > 0 ? (tokens - 1) / decode_seconds : 0.0,
      timing.transfer_bytes(), timing.transfer_ms(), transport);
  return tokens > 0 ? 0 : 1;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  sluice::Options options;
  if (!sluice::Parse(argc, argv, options)) {
    std::fputs(sluice::kUsage, stderr);
    return 64;
  }
  return sluice::Run(options);
}
