// Load on a server with OpenAI's /v1/completions, as one JSON object:
//
//   load_bench [--base-url=http://127.0.0.1:8080] [--model=NAME]
//              [--clients=1] [--requests=N] [--seconds=0] [--in-tokens=128]
//              [--out-tokens=64] [--shared-prefix-tokens=0] [--seed=1]
//              [--warmup=1] [--vocab=32000] [--timeout=600] [--window=60]
//
// A closed loop: each client sends its next request as soon as its last one
// ended, `requests` in all (default: 2 per client), or until `seconds` have
// passed. Prompts are token ids, new ones for every request and seed but for
// the shared prefix; temperature 0, end tokens ignored, streamed. Nothing but
// the public API is used; without --model the server is asked for its name.
// Exit codes: 0 measured, 1 a request failed, 64 usage, 69 no such server.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/cpu_time.h"
#include "base/status_macros.h"
#include "tools/load_exchange.h"
#include "tools/load_report.h"
#include "tools/number_flag.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;
using boost::asio::ip::tcp;

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 64;
constexpr int kExitUnavailable = 69;
// Below are the special tokens of the models at hand.
constexpr uint64_t kFirstToken = 300;

struct Options {
  std::string base_url = "http://127.0.0.1:8080";
  std::string model;
  int clients = 1;
  int requests = 0;
  int seconds = 0;
  int in_tokens = 128;
  int out_tokens = 64;
  int shared_prefix_tokens = 0;
  int seed = 1;
  int warmup = 1;
  int vocab = 32000;
  int timeout_s = 600;
  int window_s = 60;
};

absl::StatusOr<Options> ParseFlags(const std::vector<std::string>& args) {
  Options options;
  const NumberFlag numbers[] = {
      {"--clients", &options.clients, 1, 4096},
      {"--requests", &options.requests, 1, 1 << 20},
      {"--seconds", &options.seconds, 0, 1 << 20},
      {"--in-tokens", &options.in_tokens, 1, 1 << 20},
      {"--out-tokens", &options.out_tokens, 1, 1 << 20},
      {"--shared-prefix-tokens", &options.shared_prefix_tokens, 0, 1 << 20},
      {"--seed", &options.seed, 0, 1 << 30},
      {"--warmup", &options.warmup, 0, 1 << 20},
      {"--vocab", &options.vocab, kFirstToken + 1, 1 << 24},
      {"--timeout", &options.timeout_s, 1, 1 << 20},
      {"--window", &options.window_s, 1, 1 << 20},
  };
  for (size_t i = 0; i < args.size(); ++i) {
    const size_t equals = args[i].find('=');
    const std::string name = args[i].substr(0, equals);
    std::string value;
    if (equals != std::string::npos) {
      value = args[i].substr(equals + 1);
    } else if (i + 1 < args.size()) {
      value = args[++i];
    }
    if (name == "--base-url") {
      options.base_url = value;
      continue;
    }
    if (name == "--model") {
      options.model = value;
      continue;
    }
    RETURN_IF_ERROR(SetNumberFlag(numbers, name, value));
  }
  if (options.shared_prefix_tokens > options.in_tokens) {
    return absl::InvalidArgumentError(
        "--shared-prefix-tokens is more than --in-tokens");
  }
  if (options.requests == 0) options.requests = 2 * options.clients;
  return options;
}

struct Server {
  LoadTarget target;
  std::string path_prefix;  // what --base-url has behind the host
};

absl::StatusOr<Server> FindServer(const Options& options) {
  absl::string_view url = options.base_url;
  if (!absl::ConsumePrefix(&url, "http://")) {
    return absl::InvalidArgumentError("--base-url must begin with http://");
  }
  while (absl::ConsumeSuffix(&url, "/")) {
  }
  const absl::string_view host_port = url.substr(0, url.find('/'));
  const size_t colon = host_port.rfind(':');
  const std::string host(host_port.substr(0, colon));
  const std::string port(
      colon == absl::string_view::npos ? "80" : host_port.substr(colon + 1));
  boost::asio::io_context io;
  boost::system::error_code error;
  const auto found = tcp::resolver(io).resolve(host, port, error);
  if (error || found.empty()) {
    return absl::UnavailableError(
        absl::StrCat(host_port, ": ", error.message()));
  }
  Server server;
  server.target.endpoint = found.begin()->endpoint();
  server.target.host = std::string(host_port);
  server.target.timeout = std::chrono::seconds(options.timeout_s);
  server.path_prefix = std::string(url.substr(host_port.size()));
  return server;
}

// The first model the server names.
absl::StatusOr<std::string> AskModelName(const Server& server) {
  boost::asio::io_context io;
  LoadExchange answer;
  StartLoadExchange(
      io, server.target,
      {.method = LoadMethod::kGet, .path = server.path_prefix + "/v1/models"},
      [&answer](LoadExchange seen) { answer = std::move(seen); });
  io.run();
  if (!answer.error.empty()) return absl::UnavailableError(answer.error);
  const auto json = nlohmann::json::parse(answer.body, nullptr, false);
  const auto id = nlohmann::json::json_pointer("/data/0/id");
  if (answer.status != 200 || json.is_discarded() || !json.contains(id) ||
      !json.at(id).is_string()) {
    return absl::UnavailableError("/v1/models names no model; give --model");
  }
  return json.at(id).get<std::string>();
}

// SplitMix64: one stream of numbers per key, so that a prompt depends on the
// seed and its place alone.
class Numbers {
 public:
  Numbers(uint64_t seed, uint64_t stream)
      : state_(seed * 0x9e3779b97f4a7c15u + stream * 0xd1b54a32d192ed03u) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

// Runs one closed loop; on one thread.
class ClosedLoop {
 public:
  ClosedLoop(const Options& options, const Server& server)
      : options_(options), server_(server) {}

  // Requests that no figure counts, one after another.
  void WarmUp() {
    for (int i = 0; i < options_.warmup; ++i) {
      Post(kWarmupStream + i, [](const LoadExchange&) {});
      io_.run();
      io_.restart();
    }
  }

  LoadRun Run() {
    const double cpu_before_s = ProcessCpuSeconds();
    begin_ = Clock::now();
    for (int i = 0; i < options_.clients; ++i) SendNext();
    io_.run();
    LoadRun run = {.wall_s = Elapsed(),
                   .asked_tokens = options_.out_tokens,
                   .clients = options_.clients,
                   .seed = static_cast<uint64_t>(options_.seed),
                   .window_s = static_cast<double>(options_.window_s),
                   .cpu_s = ProcessCpuSeconds() - cpu_before_s};
    for (const LoadExchange& exchange : ended_) {
      run.outcomes.push_back(
          ReadLoadOutcome(exchange, begin_, options_.out_tokens));
    }
    return run;
  }

 private:
  static constexpr uint64_t kSharedStream = 1ull << 40;
  static constexpr uint64_t kWarmupStream = 2ull << 40;

  double Elapsed() const {
    return std::chrono::duration<double>(Clock::now() - begin_).count();
  }

  bool Over() const {
    return options_.seconds > 0 ? Elapsed() >= options_.seconds
                                : sent_ >= options_.requests;
  }

  void SendNext() {
    if (Over()) return;
    Post(static_cast<uint64_t>(sent_++), [this](LoadExchange seen) {
      // A server that is gone must not make a timed load spin.
      const bool refused = seen.status == 0 && options_.seconds > 0;
      ended_.push_back(std::move(seen));
      if (!refused) SendNext();
    });
  }

  void Post(uint64_t stream, std::function<void(LoadExchange)> done) {
    StartLoadExchange(io_, server_.target,
                      {.method = LoadMethod::kPost,
                       .path = server_.path_prefix + "/v1/completions",
                       .body = Body(stream)},
                      std::move(done));
  }

  std::string Body(uint64_t stream) const {
    nlohmann::json body = {
        {"model", options_.model},
        {"prompt", nlohmann::json::array()},
        {"max_tokens", options_.out_tokens},
        {"temperature", 0},
        {"ignore_eos", true},
        {"stream", true},
        {"stream_options", {{"include_usage", true}}},
        {"seed", options_.seed},
    };
    const auto seed = static_cast<uint64_t>(options_.seed);
    Numbers shared(seed, kSharedStream);
    Numbers own(seed, stream);
    const bool warmup = stream >= kWarmupStream;
    for (int i = 0; i < options_.in_tokens; ++i) {
      const bool in_prefix = !warmup && i < options_.shared_prefix_tokens;
      const uint64_t number = in_prefix ? shared.Next() : own.Next();
      body["prompt"].push_back(kFirstToken +
                               number % (options_.vocab - kFirstToken));
    }
    return body.dump();
  }

  const Options options_;
  const Server& server_;
  boost::asio::io_context io_{1};
  Clock::time_point begin_;
  int sent_ = 0;
  std::vector<LoadExchange> ended_;
};

int Fail(const absl::Status& status, int code) {
  std::fprintf(stderr, "load_bench: %s\n",
               std::string(status.message()).c_str());
  return code;
}

int Main(int argc, char** argv) {
  absl::StatusOr<Options> options =
      ParseFlags(std::vector<std::string>(argv + 1, argv + argc));
  if (!options.ok()) return Fail(options.status(), kExitUsage);
  const absl::StatusOr<Server> server = FindServer(*options);
  if (!server.ok()) {
    return Fail(server.status(), absl::IsUnavailable(server.status())
                                     ? kExitUnavailable
                                     : kExitUsage);
  }
  if (options->model.empty()) {
    const absl::StatusOr<std::string> name = AskModelName(*server);
    if (!name.ok()) return Fail(name.status(), kExitUnavailable);
    options->model = *name;
  }
  ClosedLoop loop(*options, *server);
  loop.WarmUp();
  const nlohmann::ordered_json report = LoadReport(loop.Run());
  // An error's text may be cut inside a character.
  std::puts(report
                .dump(-1, ' ', false,
                      nlohmann::ordered_json::error_handler_t::replace)
                .c_str());
  return report["errors"] == 0 ? 0 : kExitFailed;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) { return sluice::Main(argc, argv); }
