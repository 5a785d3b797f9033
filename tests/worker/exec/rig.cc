#include "tests/worker/exec/rig.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/unchecked_op_table.h"
#include "tests/kernels/amx_emulator.h"

namespace sluice::worker {
namespace {

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s\n", value.status().ToString().c_str());
    std::exit(1);
  }
  return *std::move(value);
}

// Of this user: a test runner may hide or change $HOME.
std::string HomeFolder() {
  const passwd* user = getpwuid(getuid());
  return user == nullptr ? "" : user->pw_dir;
}

}  // namespace

std::string TinyModelPath(const std::string& name) {
  return absl::StrCat("tests/golden/tiny/", name);
}

std::string SmolLm2Path() {
  constexpr char kName[] = "SmolLM2-135M-Instruct.Q4_1.gguf";
  const char* named = std::getenv("SLUICE_TEST_MODEL");
  std::string path = named == nullptr ? "" : named;
  if (path.empty()) {
    const char* cache = std::getenv("XDG_CACHE_HOME");
    path = cache != nullptr && cache[0] != '\0'
               ? std::string(cache)
               : absl::StrCat(HomeFolder(), "/.cache");
    absl::StrAppend(&path, "/sluice/models/", kName);
  }
  if (FILE* file = std::fopen(path.c_str(), "rb")) {
    std::fclose(file);
    return path;
  }
  std::fprintf(stderr,
               "test model missing: %s\nfetch it with ./deploy/local.sh "
               "--smoke, or set SLUICE_TEST_MODEL\n",
               path.c_str());
  std::exit(1);
}

std::vector<TokenId> SmolLm2Prompt(int tokens, uint32_t seed) {
  std::vector<TokenId> prompt;
  uint32_t state = 777u + seed;
  for (int i = 0; i < tokens; ++i) {
    state = state * 1664525u + 1013904223u;
    prompt.push_back(static_cast<TokenId>((state >> 8) % 49152));
  }
  return prompt;
}

std::shared_ptr<const LoadedModel> SharedModel(const std::string& path,
                                               bool widen_to_f32) {
  static auto* loaded = new std::map<std::pair<std::string, bool>,
                                     std::shared_ptr<const LoadedModel>>;
  auto& slot = (*loaded)[{path, widen_to_f32}];
  if (slot == nullptr) {
    kernels::ThreadPool threads(kernels::UsableCpus());
    slot = std::make_shared<const LoadedModel>(ValueOrDie(LoadModel(
        {.path = path, .widen_to_f32 = widen_to_f32}, {&threads}, {})));
  }
  return slot;
}

SamplingParams Greedy(int max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  params.ignore_eos = true;
  return params;
}

std::vector<kernels::Isa> RigIsas() {
  std::vector<kernels::Isa> result;
  for (kernels::Isa isa : kernels::kAllIsas) {
    if (isa <= kernels::DetectIsa() ||
        (isa == kernels::Isa::kAmx && kernels::AmxRuns())) {
      result.push_back(isa);
    } else {
      std::printf("this CPU lacks %s\n", std::string(Name(isa)).c_str());
    }
  }
  return result;
}

Rig::Rig(const RigOptions& options) : options_(options) {
  if (options_.model_tokens == 0) {
    options_.model_tokens = model().max_positions();
  }
  threads_ = std::make_unique<kernels::ThreadPool>(options.threads);
  const bool emulated =
      options.isa == kernels::Isa::kAmx && kernels::AmxIsEmulated();
  ops_ = emulated ? &kernels::UncheckedOpTable(options.isa)
                  : ValueOrDie(kernels::SelectOpTable(options.isa));
  pool_ = ValueOrDie(
      KvPool::Create(PoolOptionsFor(model().config(), options.kv_dtype,
                                    options.block_tokens, options.num_blocks)));
  runner_ = ValueOrDie(StepRunner::Create(runner_options()));
}

StepRunnerOptions Rig::runner_options() const {
  return {.model = &model(),
          .pool = pool_.get(),
          .ops = ops_,
          .threads = threads_.get(),
          .clock = &SystemClock::Get(),
          .max_batch_seqs = options_.max_batch_seqs,
          .max_batch_tokens = options_.max_batch_tokens,
          .model_tokens = options_.model_tokens,
          .eos_ids = options_.model->files.eos_ids,
          .digest_logits = options_.digest_logits,
          .observer = nullptr};
}

std::vector<BlockId> Rig::Blocks(BlockId first, int64_t tokens) const {
  std::vector<BlockId> blocks;
  for (int64_t t = 0; t < tokens; t += options_.block_tokens) {
    blocks.push_back(first++);
  }
  return blocks;
}

SequenceStart Rig::StartOf(SequenceKey seq, std::vector<TokenId> prompt,
                           const SamplingParams& params) const {
  const uint32_t size = static_cast<uint32_t>(prompt.size());
  return {.seq = seq,
          .tokens = std::move(prompt),
          .prompt_tokens = size,
          .seed = params.seed,
          .sampling = std::make_shared<const SamplingParams>(params)};
}

Stream Rig::Generate(const GenerateArgs& args) {
  Stream stream;
  const int64_t size = static_cast<int64_t>(args.prompt.size());
  int64_t done = 0;
  while (static_cast<int>(stream.tokens.size()) < args.count) {
    StepPlan plan;
    plan.step = next_step_++;
    if (done == 0) {
      plan.starts.push_back(StartOf(args.seq, args.prompt, args.params));
    }
    PlanRow row = {.seq = args.seq, .kv_before = static_cast<uint32_t>(done)};
    if (done < size) {
      const int64_t end = std::min(size, done + args.chunk);
      row.tokens.assign(args.prompt.begin() + done, args.prompt.begin() + end);
    } else {
      row.tokens = {stream.tokens.back()};
    }
    done += static_cast<int64_t>(row.tokens.size());
    row.blocks = Blocks(args.first_block, done);
    if (done >= size) row.samples = {args.seq};
    plan.rows.push_back(std::move(row));
    const StepResult result = ValueOrDie(runner_->Run(plan));
    for (const SampledToken& token : result.sampled) {
      SLUICE_CHECK(token.status == kernels::SampleStatus::kOk);
      stream.tokens.push_back(token.token);
      stream.digests.push_back(token.logits_sha256);
    }
  }
  StepPlan end;
  end.step = next_step_++;
  end.ends = {args.seq};
  ValueOrDie(runner_->Run(end));
  return stream;
}

std::vector<std::vector<TokenId>> Rig::GreedyTogether(
    const std::vector<std::vector<TokenId>>& prompts, int count) {
  std::vector<std::vector<TokenId>> out(prompts.size());
  BlockId next_block = 1;
  std::vector<std::vector<BlockId>> blocks;
  // Each prompt in a step of its own, then all of them step by step.
  for (size_t i = 0; i < prompts.size(); ++i) {
    blocks.push_back(
        Blocks(next_block, static_cast<int64_t>(prompts[i].size()) + count));
    next_block += static_cast<BlockId>(blocks[i].size());
    StepPlan plan;
    plan.step = next_step_++;
    plan.starts = {StartOf(i, prompts[i], Greedy(count))};
    plan.rows = {
        {.seq = i, .tokens = prompts[i], .blocks = blocks[i], .samples = {i}}};
    out[i].push_back(ValueOrDie(runner_->Run(plan)).sampled[0].token);
  }
  for (int step = 1; step < count; ++step) {
    StepPlan plan;
    plan.step = next_step_++;
    for (size_t i = 0; i < prompts.size(); ++i) {
      plan.rows.push_back(
          {.seq = i,
           .kv_before = static_cast<uint32_t>(prompts[i].size() + step - 1),
           .tokens = {out[i].back()},
           .blocks = blocks[i],
           .samples = {i}});
    }
    const StepResult result = ValueOrDie(runner_->Run(plan));
    for (size_t i = 0; i < prompts.size(); ++i) {
      out[i].push_back(result.sampled[i].token);
    }
  }
  StepPlan end;
  for (size_t i = 0; i < prompts.size(); ++i) end.ends.push_back(i);
  ValueOrDie(runner_->Run(end));
  return out;
}

std::vector<float> Rig::LogitsAt(const std::vector<TokenId>& prompt,
                                 const std::vector<int32_t>& wanted) {
  const int64_t tokens = static_cast<int64_t>(prompt.size());
  const int64_t vocab = model().config().vocab;
  const kernels::OpContext context{threads_.get()};
  constexpr int64_t kSlice = 16;
  auto buffers =
      ValueOrDie(model().MakeBuffers({.max_tokens = tokens,
                                      .max_kv_len = options_.model_tokens,
                                      .max_logit_rows = kSlice,
                                      .threads = options_.threads}));
  std::vector<int64_t> positions, slots;
  const std::vector<BlockId> blocks = Blocks(1, tokens);
  for (int64_t p = 0; p < tokens; ++p) {
    positions.push_back(p);
    slots.push_back(int64_t{blocks[p / options_.block_tokens]} *
                        options_.block_tokens +
                    p % options_.block_tokens);
  }
  const uint32_t q_off[] = {0, static_cast<uint32_t>(tokens)};
  const uint32_t kv_before[] = {0};
  model().Forward(context, *ops_,
                  {.ids = prompt,
                   .positions = positions,
                   .slots = slots,
                   .q_off = q_off,
                   .kv_before = kv_before,
                   .block_table = blocks.data(),
                   .table_width = static_cast<int64_t>(blocks.size()),
                   .kv = pool_->layers()},
                  buffers.get(), [](int64_t) {});
  std::vector<float> all;
  all.reserve(wanted.size() * vocab);
  for (size_t begin = 0; begin < wanted.size(); begin += kSlice) {
    const auto rows = absl::MakeConstSpan(wanted).subspan(begin, kSlice);
    const auto logits = model().Logits(context, *ops_, rows, buffers.get());
    all.insert(all.end(), logits.data, logits.data + rows.size() * vocab);
  }
  return all;
}

}  // namespace sluice::worker
