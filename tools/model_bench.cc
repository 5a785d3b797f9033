// Speed of one model on this machine, without a cluster around it:
//
//   model_bench --model=PATH [--prefill=512] [--decode=64] [--batch=1]
//               [--context=0] [--rounds=5] [--threads=N] [--cpu.isa=LEVEL]
//               [--digests=1] [--pin=1] [--weights.cache_dir=DIR]
//
// Prints one JSON object: tokens per second of a prefill of one prompt and of
// `decode` greedy steps of `batch` sequences that follow `context` tokens
// each; medians, minima and maxima over the rounds. A count of 0 leaves its
// part out. Of a GGUF file it also says what a step must read at least, for
// the limit: the matrices' stored bytes, their weights, the KV bytes of a
// token. With --digests=1 every prefill runs once more as in a prefill worker,
// which keeps digests of its KV; their cost is the median of the rounds' times
// over each other, their share what the digests themselves take. --pin=1 gives
// each thread a CPU of its own, as a worker does with cpu.pin. With
// --weights.cache_dir the weights are those of the cache, as in a worker.
// Exit codes: 0 measured, 64 usage, 65 a bad model.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/op_table.h"
#include "kernels/probe.h"
#include "kvtransfer/append_digests.h"
#include "kvtransfer/layout_manifest.h"
#include "tools/number_flag.h"
#include "worker/cache/kv_pool.h"
#include "worker/exec/step_profiler.h"
#include "worker/exec/step_runner.h"
#include "worker/model/gguf.h"
#include "worker/model/loaded_model.h"
#include "worker/model/mapped_file.h"

namespace sluice::worker {
namespace {

constexpr int kExitUsage = 64;
constexpr int kExitBadInput = 65;
constexpr uint32_t kBlockTokens = 64;
constexpr int kChunk = 2048;
constexpr int kProfiledRounds = 3;

struct Options {
  std::string model;
  std::string cache_dir;  // of repacked weights; empty: none
  int prefill = 512;
  int decode = 64;
  int batch = 1;
  int context = 0;
  int rounds = 5;
  int digests = 0;
  int pin = 0;
  int threads = kernels::UsableCpus();
  kernels::Isa isa = kernels::DetectIsa();
};

absl::StatusOr<Options> ParseFlags(int argc, char** argv) {
  Options options;
  const NumberFlag numbers[] = {
      {"--prefill", &options.prefill, 0, 1 << 20},
      {"--decode", &options.decode, 0, 1 << 20},
      {"--batch", &options.batch, 1, 1024},
      {"--context", &options.context, 0, 1 << 20},
      {"--rounds", &options.rounds, 1, 1000},
      {"--digests", &options.digests, 0, 1},
      {"--pin", &options.pin, 0, 1},
      {"--threads", &options.threads, 1, 1024},
  };
  for (int i = 1; i < argc; ++i) {
    absl::string_view arg = argv[i];
    if (absl::ConsumePrefix(&arg, "--model=")) {
      options.model = std::string(arg);
      continue;
    }
    if (absl::ConsumePrefix(&arg, "--weights.cache_dir=")) {
      options.cache_dir = std::string(arg);
      continue;
    }
    if (absl::ConsumePrefix(&arg, "--cpu.isa=")) {
      ASSIGN_OR_RETURN(options.isa, kernels::ParseIsa(arg));
      continue;
    }
    const size_t equals = std::min(arg.find('='), arg.size());
    RETURN_IF_ERROR(
        SetNumberFlag(numbers, arg.substr(0, equals),
                      arg.substr(std::min(equals + 1, arg.size()))));
  }
  if (options.model.empty()) {
    return absl::InvalidArgumentError("--model is required");
  }
  return options;
}

std::vector<TokenId> RandomTokens(int count, uint32_t seed, int64_t vocab) {
  std::vector<TokenId> tokens;
  uint32_t state = 777u + seed;
  for (int i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<TokenId>((state >> 8) % vocab));
  }
  return tokens;
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Tokens per second of each round.
struct Rates {
  std::vector<double> values;

  std::string Json() const {
    const auto [least, most] =
        std::minmax_element(values.begin(), values.end());
    return absl::StrFormat("{\"median\": %.2f, \"min\": %.2f, \"max\": %.2f}",
                           Median(values), *least, *most);
  }
};

// Prefill without and, if asked for, with digests of the KV kept.
struct PrefillRates {
  Rates plain;
  Rates digests;             // empty: not asked for
  double digests_share = 0;  // of the time of some more rounds

  // Median over the rounds of what the digests take of a second.
  double Cost() const {
    std::vector<double> costs;
    for (size_t i = 0; i < plain.values.size(); ++i) {
      costs.push_back(1 - digests.values[i] / plain.values[i]);
    }
    return Median(std::move(costs));
  }
};

class Bench {
 public:
  static absl::StatusOr<std::unique_ptr<Bench>> Create(const Options& options) {
    std::unique_ptr<Bench> bench(new Bench(options));
    RETURN_IF_ERROR(bench->Init());
    return bench;
  }

  absl::StatusOr<PrefillRates> Prefill() {
    PrefillRates rates;
    for (int round = 0; round < options_.rounds; ++round) {
      const auto prompt = RandomTokens(options_.prefill, round, vocab_);
      // In turn, so that neither always comes second.
      for (const bool digests : {round % 2 == 1, round % 2 == 0}) {
        if (digests && digesting_ == nullptr) continue;
        ASSIGN_OR_RETURN(const double rate,
                         PrefillRate(digests ? *digesting_ : *runner_, prompt));
        (digests ? rates.digests : rates.plain).values.push_back(rate);
      }
    }
    if (digesting_ != nullptr) {
      ASSIGN_OR_RETURN(rates.digests_share, DigestsShare());
    }
    return rates;
  }

  absl::StatusOr<Rates> Decode() {
    Rates rates;
    for (int round = 0; round < options_.rounds; ++round) {
      std::vector<TokenId> last;
      for (int i = 0; i < options_.batch; ++i) {
        const auto prompt = RandomTokens(std::max(options_.context, 1),
                                         round * 1000 + i, vocab_);
        ASSIGN_OR_RETURN(const TokenId token, Feed(*runner_, i, prompt));
        last.push_back(token);
      }
      const double begin = Now();
      for (int step = 0; step < options_.decode; ++step) {
        RETURN_IF_ERROR(DecodeStep(std::max(options_.context, 1) + step, last));
      }
      rates.values.push_back(options_.decode * options_.batch /
                             (Now() - begin));
      RETURN_IF_ERROR(End(*runner_, options_.batch));
    }
    return rates;
  }

  int64_t KvBytesPerToken() const {
    const ModelConfig& config = loaded_.model->config();
    const int64_t value_bytes =
        loaded_.kv_dtype == kernels::KvDtype::kF32 ? 4 : 2;
    return 2 * config.layers * config.kv_width() * value_bytes;
  }

 private:
  explicit Bench(const Options& options)
      : options_(options), threads_(options.threads) {
    if (options.pin != 0) threads_.PinThreads();
  }

  static double Now() {
    return std::chrono::duration<double>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  int TokensPerSequence() const {
    return std::max(options_.prefill,
                    std::max(options_.context, 1) + options_.decode + 1);
  }
  int BlocksPerSequence() const {
    return (TokensPerSequence() + kBlockTokens - 1) / kBlockTokens;
  }

  absl::Status Init() {
    const kernels::OpContext context = {.pool = &threads_};
    ASSIGN_OR_RETURN(const kernels::OpTable* table,
                     kernels::SelectOpTable(options_.isa));
    ops_ = kernels::RunProbe(context, *table).table;
    LoadOptions load = {.path = options_.model,
                        .cache_folder = options_.cache_dir};
    load.max_context = TokensPerSequence();
    ASSIGN_OR_RETURN(loaded_, LoadModel(load, context, {}));
    const ModelConfig& config = loaded_.model->config();
    vocab_ = config.vocab;
    const auto blocks =
        static_cast<uint32_t>(1 + options_.batch * BlocksPerSequence());
    ASSIGN_OR_RETURN(pool_,
                     KvPool::Create(PoolOptionsFor(config, loaded_.kv_dtype,
                                                   kBlockTokens, blocks)));
    StepRunnerOptions runner;
    runner.model = loaded_.model.get();
    runner.pool = pool_.get();
    runner.ops = &ops_;
    runner.threads = &threads_;
    runner.clock = &SystemClock::Get();
    runner.max_batch_seqs = options_.batch;
    runner.max_batch_tokens = std::max(kChunk, options_.batch);
    runner.model_tokens = TokensPerSequence();
    ASSIGN_OR_RETURN(runner_, StepRunner::Create(runner));
    if (options_.digests == 0) return absl::OkStatus();
    MakeDigests();
    runner.digests = digests_.get();
    const PageMemory& weights = loaded_.model->weights().memory;
    profiler_ = std::make_unique<StepProfiler>(
        absl::MakeConstSpan(weights.data(),
                            static_cast<size_t>(weights.size_bytes())),
        [this](const StepProfile& profile) {
          digests_share_ =
              static_cast<double>(profile.ops.of(StepOp::kDigestKv).nanos) /
              static_cast<double>(profile.step_nanos);
        });
    runner.profiler = profiler_.get();
    ASSIGN_OR_RETURN(digesting_, StepRunner::Create(runner));
    return absl::OkStatus();
  }

  void MakeDigests() {
    kvtransfer::LayoutManifest manifest;
    manifest.block_tokens = kBlockTokens;
    kvtransfer::RankManifest rank;
    rank.num_layers = static_cast<uint32_t>(loaded_.model->config().layers);
    rank.groups.push_back(pool_->manifest_group());
    manifest.replicas.emplace_back().ranks.push_back(std::move(rank));
    digests_ = std::make_unique<kvtransfer::AppendDigests>(manifest, 0);
  }

  // What of the time of a prefill its digests take, by the laps of its ops.
  absl::StatusOr<double> DigestsShare() {
    const int chunks = (options_.prefill + kChunk - 1) / kChunk;
    SLUICE_CHECK(profiler_->Request(int64_t{kProfiledRounds} * chunks));
    for (int round = 0; round < kProfiledRounds; ++round) {
      const auto prompt = RandomTokens(options_.prefill, round, vocab_);
      RETURN_IF_ERROR(PrefillRate(*digesting_, prompt).status());
    }
    return digests_share_;
  }

  // Tokens per second of one prompt.
  absl::StatusOr<double> PrefillRate(StepRunner& runner,
                                     const std::vector<TokenId>& prompt) {
    const double begin = Now();
    RETURN_IF_ERROR(Feed(runner, 0, prompt).status());
    const double rate = static_cast<double>(prompt.size()) / (Now() - begin);
    RETURN_IF_ERROR(End(runner, 1));
    return rate;
  }

  std::vector<BlockId> Blocks(int sequence, int tokens) const {
    std::vector<BlockId> blocks;
    const int first = 1 + sequence * BlocksPerSequence();
    for (int t = 0; t < tokens; t += kBlockTokens) {
      blocks.push_back(static_cast<BlockId>(first + t / kBlockTokens));
    }
    return blocks;
  }

  // Starts a sequence and runs its prompt; the token drawn at its end.
  absl::StatusOr<TokenId> Feed(StepRunner& runner, int sequence,
                               const std::vector<TokenId>& prompt) {
    const SequenceKey key = static_cast<SequenceKey>(sequence);
    SamplingParams params;
    params.temperature = 0;
    params.max_tokens = options_.decode + 1;
    params.ignore_eos = true;
    TokenId token = 0;
    const int size = static_cast<int>(prompt.size());
    for (int done = 0; done < size;) {
      const int end = std::min(size, done + kChunk);
      StepPlan plan;
      if (done == 0) {
        plan.starts.push_back(
            {.seq = key,
             .tokens = prompt,
             .prompt_tokens = static_cast<uint32_t>(size),
             .seed = 0,
             .sampling = std::make_shared<const SamplingParams>(params)});
      }
      PlanRow row = {.seq = key, .kv_before = static_cast<uint32_t>(done)};
      row.tokens.assign(prompt.begin() + done, prompt.begin() + end);
      row.blocks = Blocks(sequence, end);
      if (end == size) row.samples = {key};
      plan.rows.push_back(std::move(row));
      ASSIGN_OR_RETURN(const StepResult result, runner.Run(plan));
      if (!result.sampled.empty()) token = result.sampled[0].token;
      done = end;
    }
    return token;
  }

  // One more token of every sequence, all of which have `computed` entries.
  absl::Status DecodeStep(int computed, std::vector<TokenId>& last) {
    StepPlan plan;
    for (size_t i = 0; i < last.size(); ++i) {
      plan.rows.push_back({.seq = static_cast<SequenceKey>(i),
                           .kv_before = static_cast<uint32_t>(computed),
                           .tokens = {last[i]},
                           .blocks = Blocks(static_cast<int>(i), computed + 1),
                           .samples = {static_cast<SequenceKey>(i)}});
    }
    ASSIGN_OR_RETURN(const StepResult result, runner_->Run(plan));
    for (size_t i = 0; i < last.size(); ++i) last[i] = result.sampled[i].token;
    return absl::OkStatus();
  }

  absl::Status End(StepRunner& runner, int sequences) {
    StepPlan plan;
    for (int i = 0; i < sequences; ++i) {
      plan.ends.push_back(static_cast<SequenceKey>(i));
    }
    return runner.Run(plan).status();
  }

  const Options options_;
  kernels::ThreadPool threads_;
  kernels::OpTable ops_;
  LoadedModel loaded_;
  int64_t vocab_ = 0;
  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<StepRunner> runner_;
  std::unique_ptr<kvtransfer::AppendDigests> digests_;
  std::unique_ptr<StepProfiler> profiler_;  // of digesting_
  double digests_share_ = 0;
  std::unique_ptr<StepRunner> digesting_;  // as runner_, but keeps digests_
};

// The matrices that every step reads whole: all but the embedding, unless it
// is the head as well.
absl::StatusOr<std::string> StreamedJson(const std::string& path) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file,
                   MappedFile::Open(path));
  if (!LooksLikeGguf(*file)) return std::string();
  ASSIGN_OR_RETURN(const GgufFile gguf, ReadGguf(file));
  const bool tied = !gguf.weights.Has("output.weight");
  uint64_t bytes = 0;
  int64_t weights = 0;
  for (const auto& [name, tensor] : gguf.weights.tensors()) {
    if (tensor.shape.size() != 2) continue;
    if (name == "token_embd.weight" && !tied) continue;
    bytes += tensor.num_bytes;
    weights += tensor.shape[0] * tensor.shape[1];
  }
  return absl::StrCat(", \"stream_bytes\": ", bytes,
                      ", \"stream_weights\": ", weights);
}

absl::StatusOr<std::string> Measure(const Options& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Bench> bench, Bench::Create(options));
  std::string streamed;
  std::error_code ignored;
  if (!std::filesystem::is_directory(options.model, ignored)) {
    ASSIGN_OR_RETURN(streamed, StreamedJson(options.model));
  }
  std::string json =
      absl::StrCat("{\"threads\": ", options.threads, streamed,
                   ", \"kv_bytes_per_token\": ", bench->KvBytesPerToken());
  if (options.prefill > 0) {
    ASSIGN_OR_RETURN(const PrefillRates rates, bench->Prefill());
    absl::StrAppend(&json, ", \"prefill_tokens\": ", options.prefill,
                    ", \"prefill_tok_s\": ", rates.plain.Json());
    if (options.digests != 0) {
      absl::StrAppend(
          &json, ", \"prefill_digests_tok_s\": ", rates.digests.Json(),
          absl::StrFormat(", \"digests_cost\": %.4f, \"digests_share\": %.5f",
                          rates.Cost(), rates.digests_share));
    }
  }
  if (options.decode > 0) {
    ASSIGN_OR_RETURN(const Rates rates, bench->Decode());
    absl::StrAppend(&json, ", \"context\": ", options.context,
                    ", \"batch\": ", options.batch,
                    ", \"decode_steps\": ", options.decode,
                    ", \"decode_tok_s\": ", rates.Json());
  }
  return absl::StrCat(json, "}");
}

int Main(int argc, char** argv) {
  const absl::StatusOr<Options> options = ParseFlags(argc, argv);
  if (!options.ok()) {
    std::fprintf(stderr,
                 "model_bench: %s\nusage: model_bench --model=PATH "
                 "[--prefill=N] [--decode=N] [--batch=N] [--context=N] "
                 "[--rounds=N] [--threads=N] [--cpu.isa=LEVEL] [--digests=1] "
                 "[--weights.cache_dir=DIR]\n",
                 std::string(options.status().message()).c_str());
    return kExitUsage;
  }
  const absl::StatusOr<std::string> json = Measure(*options);
  if (!json.ok()) {
    std::fprintf(stderr, "model_bench: %s\n", json.status().ToString().c_str());
    return kExitBadInput;
  }
  std::puts(json->c_str());
  return 0;
}

}  // namespace
}  // namespace sluice::worker

int main(int argc, char** argv) { return sluice::worker::Main(argc, argv); }
