#include "tests/integration/fault_load.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/grpc_status.h"
#include "base/status_macros.h"
#include "tests/worker/exec/rig.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;

constexpr uint32_t kVocab = 512;  // of the tiny models
constexpr int kMaxPrompt = 400;
constexpr int kMaxGenerated = 48;
constexpr size_t kMaxComplaints = 20;

int64_t MsSince(SteadyClock::time_point begin) {
  return std::chrono::duration_cast<milliseconds>(SteadyClock::now() - begin)
      .count();
}

// Asks until `status` is OK, at most for `bound_ms`.
absl::Status Await(int64_t bound_ms,
                   const std::function<absl::Status()>& status) {
  const auto begin = SteadyClock::now();
  while (true) {
    // The last look begins at or after the bound.
    const bool last = MsSince(begin) >= bound_ms;
    const absl::Status now = status();
    if (now.ok() || last) return now;
    std::this_thread::sleep_for(milliseconds(20));
  }
}

bool IsBeginning(const std::vector<uint32_t>& part,
                 const std::vector<uint32_t>& whole) {
  return part.size() <= whole.size() &&
         std::equal(part.begin(), part.end(), whole.begin());
}

// One call and the moment at which its client gives it up.
struct Call {
  static constexpr int kNever = 1 << 20;
  int cancel_after_events = kNever;
  int cancel_after_ms = kNever;
  int64_t bound_ms = 0;
};

struct CallEnd {
  absl::Status status;
  std::vector<uint32_t> tokens;
};

CallEnd Run(LocalCluster& cluster, const v1::GenerateRequest& request,
            const Call& call) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       milliseconds(call.bound_ms));
  std::jthread canceller;
  if (call.cancel_after_ms != Call::kNever) {
    canceller = std::jthread([&context, &call](const std::stop_token& stop) {
      const auto begin = SteadyClock::now();
      while (!stop.stop_requested() && MsSince(begin) < call.cancel_after_ms) {
        std::this_thread::sleep_for(milliseconds(1));
      }
      context.TryCancel();
    });
  }
  auto reader = cluster.stub().Generate(&context, request);
  CallEnd end;
  int events = 0;
  for (v1::GenerateEvent event; reader->Read(&event);) {
    end.tokens.insert(end.tokens.end(), event.delta().token_ids().begin(),
                      event.delta().token_ids().end());
    if (++events == call.cancel_after_events) context.TryCancel();
  }
  end.status = FromGrpcStatus(reader->Finish());
  return end;
}

int CountMappings(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/maps"));
  int lines = 0;
  for (std::string line; std::getline(file, line);) ++lines;
  return lines;
}

}  // namespace

int FromEnvironment(const char* name, int by_default) {
  const char* text = std::getenv(name);
  int value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : by_default;
}

absl::StatusOr<std::unique_ptr<LocalCluster>> StartFaultCluster(
    const FaultClusterSpec& wanted) {
  ClusterSpec spec{
      .model = worker::TinyModelPath("llama"),
      .worker_flags = {"--kv.blocks=400", "--kv.block_tokens=16",
                       "--sched.chunk_tokens=64", "--sched.max_batch_tokens=96",
                       "--sched.max_batch_seqs=16", "--cpu.threads=1",
                       "--kv.debuggable=true",
                       absl::StrCat("--kv.transport=", wanted.transport)},
      .router_flags = {"--route.local_prefill_fallback=false"},
      .step_logs = false,
      .worker_binary = wanted.worker_binary};
  spec.worker_flags.insert(spec.worker_flags.end(), wanted.flags.begin(),
                           wanted.flags.end());
  for (int i = 0; i < wanted.prefill; ++i) {
    spec.workers.push_back({absl::StrCat("p", i), "prefill", {}});
  }
  for (int i = 0; i < wanted.decode; ++i) {
    spec.workers.push_back({absl::StrCat("d", i), "decode", {}});
  }
  return LocalCluster::Start(spec);
}

Footprint FootprintOf(LocalCluster& cluster, const std::string& name) {
  const std::string metrics = cluster.Metrics(name);
  Footprint result;
  result.descriptors = MetricOf(metrics, "process_open_fds");
  result.resident_mib =
      MetricOf(metrics, "process_resident_memory_bytes") / (1 << 20);
  result.threads = MetricOf(metrics, "sluice_threads");
  result.mappings = CountMappings(cluster.PidOf(name));
  return result;
}

absl::StatusOr<std::vector<KnownRequest>> LearnRequests(LocalCluster& cluster,
                                                        int count,
                                                        uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<KnownRequest> known(count);
  for (KnownRequest& entry : known) {
    v1::GenerateRequest& request = entry.request;
    const uint32_t prompt = 1 + random() % kMaxPrompt;
    for (uint32_t i = 0; i < prompt; ++i) {
      request.mutable_tokens()->add_ids(2 + random() % (kVocab - 2));
    }
    v1::SamplingParams& sampling = *request.mutable_sampling();
    sampling.set_max_tokens(1 + random() % kMaxGenerated);
    sampling.set_ignore_eos(true);
    const bool greedy = random() % 2 == 0;
    sampling.set_temperature(greedy ? 0.0f : 0.9f);
    sampling.set_seed(random());
    ASSIGN_OR_RETURN(ClusterAnswer answer, cluster.Generate(request));
    entry.tokens = std::move(answer.tokens);
    if (entry.tokens.size() != sampling.max_tokens()) {
      return absl::InternalError(absl::StrCat("a clean run gave ",
                                              entry.tokens.size(), " of ",
                                              sampling.max_tokens()));
    }
  }
  return known;
}

void LoadReport::Add(const LoadReport& other) {
  for (const auto& [code, count] : other.ends) ends[code] += count;
  wrong_tokens += other.wrong_tokens;
  longest_ms = std::max(longest_ms, other.longest_ms);
}

int LoadReport::count(absl::StatusCode code) const {
  const auto found = ends.find(code);
  return found == ends.end() ? 0 : found->second;
}

int LoadReport::total() const {
  int total = 0;
  for (const auto& [code, count] : ends) total += count;
  return total;
}

std::string LoadReport::Text() const {
  std::string text;
  for (const auto& [code, count] : ends) {
    absl::StrAppend(&text, count, " ", absl::StatusCodeToString(code), ", ");
  }
  absl::StrAppend(&text, "longest ", longest_ms, " ms");
  for (const std::string& complaint : complaints) {
    absl::StrAppend(&text, "\n  ", complaint);
  }
  return text;
}

FaultLoad::FaultLoad(LocalCluster& cluster,
                     const std::vector<KnownRequest>& requests,
                     const LoadOptions& options)
    : cluster_(cluster), requests_(requests), options_(options) {
  for (int i = 0; i < options_.streams; ++i) {
    threads_.emplace_back([this, i] { RunStream(static_cast<uint32_t>(i)); });
  }
}

FaultLoad::~FaultLoad() { Stop(); }

LoadReport FaultLoad::Stop() {
  stopping_ = true;
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  MutexLock lock(mu_);
  return report_;
}

void FaultLoad::RunStream(uint32_t stream) {
  std::mt19937_64 random(options_.seed * 1000003ull + stream);
  while (!stopping_) CallOnce(random(), stream);
}

void FaultLoad::CallOnce(uint64_t seed, uint32_t stream) {
  std::mt19937 random(static_cast<uint32_t>(seed ^ (seed >> 32)));
  const KnownRequest& known = requests_[random() % requests_.size()];
  v1::GenerateRequest request = known.request;
  if (random() % 4 != 0) {
    request.set_cache_salt(absl::StrCat("s", stream, "-", seed));
  }
  Call call{.bound_ms = options_.call_bound_ms};
  const bool cancels =
      std::uniform_real_distribution<double>()(random) < options_.cancel_share;
  if (cancels && random() % 2 == 0) {
    call.cancel_after_events = 1 + static_cast<int>(random() % 6);
  } else if (cancels) {
    call.cancel_after_ms = static_cast<int>(random() % 60);
  }
  const auto begin = SteadyClock::now();
  const CallEnd end = Run(cluster_, request, call);
  const int64_t took_ms = MsSince(begin);

  std::string complaint;
  bool wrong = !IsBeginning(end.tokens, known.tokens);
  if (end.status.ok()) {
    wrong = end.tokens != known.tokens;
  } else if (end.status.code() != absl::StatusCode::kUnavailable &&
             !(cancels && end.status.code() == absl::StatusCode::kCancelled)) {
    complaint = end.status.ToString();
  }
  if (wrong) {
    absl::StrAppend(&complaint, " wrong tokens: ", end.tokens.size(), " of ",
                    known.tokens.size(), " after ",
                    known.request.tokens().ids_size());
  }
  {
    MutexLock lock(mu_);
    ++report_.ends[end.status.code()];
    if (wrong) ++report_.wrong_tokens;
    report_.longest_ms = std::max(report_.longest_ms, took_ms);
    if (!complaint.empty() && report_.complaints.size() < kMaxComplaints) {
      report_.complaints.push_back(
          absl::StrCat(complaint, " after ", took_ms, " ms"));
    }
  }
  // A worker that is away refuses at once: do not spin.
  if (!end.status.ok()) std::this_thread::sleep_for(milliseconds(10));
}

absl::Status CallKnown(LocalCluster& cluster, const KnownRequest& known) {
  v1::GenerateRequest request = known.request;
  request.set_cache_salt("none");
  ASSIGN_OR_RETURN(const ClusterAnswer answer, cluster.Generate(request));
  if (answer.tokens == known.tokens) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("wrong tokens after ", request.tokens().ids_size()));
}

double MetricOf(const std::string& exposition, const std::string& family,
                const std::string& label) {
  double sum = 0;
  bool found = false;
  for (absl::string_view line : absl::StrSplit(exposition, '\n')) {
    if (!absl::ConsumePrefix(&line, family) || line.empty() ||
        (line[0] != ' ' && line[0] != '{') ||
        line.find(label) == absl::string_view::npos) {
      continue;
    }
    const size_t space = line.rfind(' ');
    double value = 0;
    if (!absl::SimpleAtod(line.substr(space + 1), &value)) continue;
    sum += value;
    found = true;
  }
  return found ? sum : -1;
}

absl::Status AwaitQuiet(LocalCluster& cluster, const std::string& name,
                        int64_t bound_ms) {
  return Await(bound_ms, [&]() -> absl::Status {
    const std::string metrics = cluster.Metrics(name);
    const double inflight = MetricOf(metrics, "sluice_kv_inflight_transfers");
    const double active =
        MetricOf(metrics, "sluice_kv_blocks", "state=\"active\"");
    const double quarantined =
        MetricOf(metrics, "sluice_kv_blocks", "state=\"quarantined\"");
    const double violations =
        MetricOf(metrics, "sluice_ledger_violations_total");
    if (inflight == 0 && active == 0 && quarantined == 0 && violations == 0) {
      return absl::OkStatus();
    }
    return absl::InternalError(absl::StrCat(
        name, " is not quiet: ", inflight, " transfers, ", active,
        " blocks active, ", quarantined, " quarantined, ", violations,
        " ledger violations", metrics.empty() ? ", no metrics" : ""));
  });
}

absl::Status AwaitPeers(LocalCluster& cluster, const std::string& name,
                        int peers, int64_t bound_ms) {
  return Await(bound_ms, [&]() -> absl::Status {
    const double up =
        MetricOf(cluster.Metrics(name), "sluice_kv_peers", "state=\"up\"");
    if (up == peers) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat(name, " has ", up, " peers up, want ", peers));
  });
}

}  // namespace sluice
