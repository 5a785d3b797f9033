// Runs the steps of a step log again on a model and compares sampled tokens
// and logits bit for bit:
//
//   replay --model=PATH --log=FILE [--cpu.isa=LEVEL] [--threads=N]
//
// Exit codes: 0 all equal, 1 some differ, 64 usage, 65 a bad log or model.

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/op_table.h"
#include "kernels/probe.h"
#include "worker/cache/kv_pool.h"
#include "worker/exec/step_log.h"
#include "worker/exec/step_runner.h"
#include "worker/model/loaded_model.h"

namespace sluice::worker {
namespace {

constexpr int kExitUsage = 64;
constexpr int kExitBadInput = 65;

struct Options {
  std::string model;
  std::string log;
  kernels::Isa isa = kernels::DetectIsa();
  int threads = kernels::UsableCpus();
};

absl::StatusOr<Options> ParseFlags(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    absl::string_view arg = argv[i];
    if (absl::ConsumePrefix(&arg, "--model=")) {
      options.model = std::string(arg);
    } else if (absl::ConsumePrefix(&arg, "--log=")) {
      options.log = std::string(arg);
    } else if (absl::ConsumePrefix(&arg, "--cpu.isa=")) {
      ASSIGN_OR_RETURN(options.isa, kernels::ParseIsa(arg));
    } else if (absl::ConsumePrefix(&arg, "--threads=")) {
      if (!absl::SimpleAtoi(arg, &options.threads) || options.threads < 1 ||
          options.threads > 1024) {
        return absl::InvalidArgumentError(
            absl::StrCat("--threads must be in [1, 1024], got ", arg));
      }
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown argument ", argv[i]));
    }
  }
  if (options.model.empty() || options.log.empty()) {
    return absl::InvalidArgumentError("--model and --log are required");
  }
  return options;
}

struct Totals {
  int64_t steps = 0;
  int64_t equal = 0;
  int64_t differ = 0;
};

// One worker process's part of the log: its model, pool and sequences.
class Replayer {
 public:
  static absl::StatusOr<std::unique_ptr<Replayer>> Create(
      const Options& options, const StepLogHeader& header) {
    std::unique_ptr<Replayer> replayer(new Replayer(options.threads));
    RETURN_IF_ERROR(replayer->Init(options, header));
    return replayer;
  }

  absl::Status RunStep(const StepLogRecord& record, Totals* totals) {
    const StepPlan plan = AsLogged(record.plan);
    ASSIGN_OR_RETURN(StepResult result, runner_->Run(plan));
    const std::vector<SampledToken>& wanted = record.result.sampled;
    for (const SampledToken& token : wanted) drawn_[token.seq] = token.token;
    if (result.sampled.size() != wanted.size()) {
      return absl::DataLossError(absl::StrCat(
          "step ", record.plan.step, ": the log has ", wanted.size(),
          " sampled rows, the plan ", result.sampled.size()));
    }
    ++totals->steps;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const SampledToken& ours = result.sampled[i];
      const bool digest_equal = wanted[i].logits_sha256.empty() ||
                                wanted[i].logits_sha256 == ours.logits_sha256;
      if (ours.seq == wanted[i].seq && ours.token == wanted[i].token &&
          ours.status == wanted[i].status && digest_equal) {
        ++totals->equal;
        continue;
      }
      ++totals->differ;
      std::printf("step %llu sequence %llu: token %d, log %d; logits %s\n",
                  static_cast<unsigned long long>(record.plan.step),
                  static_cast<unsigned long long>(wanted[i].seq), ours.token,
                  wanted[i].token, digest_equal ? "equal" : "differ");
    }
    return absl::OkStatus();
  }

 private:
  explicit Replayer(int threads) : threads_(threads) {}

  // With the tokens that the log's own steps drew, so that one that differs
  // here does not make all behind it differ.
  StepPlan AsLogged(StepPlan plan) {
    for (SequenceKey ended : plan.ends) drawn_.erase(ended);
    for (PlanRow& row : plan.rows) {
      const auto drawn = drawn_.find(row.seq);
      if (row.drawn_before() && drawn != drawn_.end() && drawn->second >= 0) {
        row.tokens[0] = drawn->second;
      }
    }
    return plan;
  }

  absl::Status Init(const Options& options, const StepLogHeader& header) {
    const kernels::OpContext context = {.pool = &threads_};
    ASSIGN_OR_RETURN(const kernels::OpTable* table,
                     kernels::SelectOpTable(options.isa));
    const kernels::ProbeResult probe = kernels::RunProbe(context, *table);
    ops_ = probe.table;
    if (probe.numerics_id != header.numerics_id) {
      std::printf("numerics here %s, log %s\n", probe.numerics_id.c_str(),
                  header.numerics_id.c_str());
    }
    ASSIGN_OR_RETURN(loaded_, LoadModel({.path = options.model,
                                         .name = "",
                                         .max_context = header.model_tokens,
                                         .widen_to_f32 = header.widened_to_f32,
                                         .kv_dtype = header.kv_dtype},
                                        context, {}));
    if (ToBytes(loaded_.files.digest) != header.model_digest) {
      return absl::InvalidArgumentError(
          absl::StrCat(options.model, " is not the model of the log"));
    }
    ASSIGN_OR_RETURN(pool_, KvPool::Create(PoolOptionsFor(
                                loaded_.model->config(), header.kv_dtype,
                                header.block_tokens, header.num_blocks)));
    ASSIGN_OR_RETURN(runner_, StepRunner::Create(
                                  {.model = loaded_.model.get(),
                                   .pool = pool_.get(),
                                   .ops = &ops_,
                                   .threads = &threads_,
                                   .clock = &SystemClock::Get(),
                                   .max_batch_seqs = header.max_batch_seqs,
                                   .max_batch_tokens = header.max_batch_tokens,
                                   .model_tokens = header.model_tokens,
                                   .eos_ids = loaded_.files.eos_ids,
                                   .digest_logits = true,
                                   .observer = nullptr}));
    return absl::OkStatus();
  }

  kernels::ThreadPool threads_;
  kernels::OpTable ops_;
  LoadedModel loaded_;
  std::unique_ptr<KvPool> pool_;
  absl::flat_hash_map<SequenceKey, TokenId> drawn_;  // by the log, last
  std::unique_ptr<StepRunner> runner_;
};

absl::StatusOr<Totals> Replay(const Options& options) {
  ASSIGN_OR_RETURN(const std::vector<StepLogRecord> records,
                   ReadStepLog(options.log));
  Totals totals;
  std::unique_ptr<Replayer> replayer;
  for (const StepLogRecord& record : records) {
    if (record.is_header) {
      replayer.reset();
      ASSIGN_OR_RETURN(replayer, Replayer::Create(options, record.header));
      continue;
    }
    if (replayer == nullptr) {
      return absl::DataLossError(
          absl::StrCat(options.log, ": a step comes before any header"));
    }
    RETURN_IF_ERROR(replayer->RunStep(record, &totals));
  }
  return totals;
}

int Main(int argc, char** argv) {
  const absl::StatusOr<Options> options = ParseFlags(argc, argv);
  if (!options.ok()) {
    std::fprintf(stderr,
                 "%s\nusage: replay --model=PATH --log=FILE "
                 "[--cpu.isa=LEVEL] [--threads=N]\n",
                 std::string(options.status().message()).c_str());
    return kExitUsage;
  }
  const absl::StatusOr<Totals> totals = Replay(*options);
  if (!totals.ok()) {
    std::fprintf(stderr, "%s\n", totals.status().ToString().c_str());
    return kExitBadInput;
  }
  std::printf("%lld steps, %lld rows equal, %lld differ\n",
              static_cast<long long>(totals->steps),
              static_cast<long long>(totals->equal),
              static_cast<long long>(totals->differ));
  return totals->differ == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sluice::worker

int main(int argc, char** argv) { return sluice::worker::Main(argc, argv); }
