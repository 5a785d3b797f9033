#include "worker/exec/step_runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace sluice::worker {
namespace {

// Fewer pieces are digested sooner than the other threads are at work.
constexpr int64_t kParallelDigests = 4;

std::string DigestOf(const float* logits, int64_t vocab) {
  return ToBytes(Sha256Of({reinterpret_cast<const char*>(logits),
                           static_cast<size_t>(vocab) * sizeof(float)}));
}

absl::Status BadRow(const PlanRow& row, absl::string_view what) {
  return absl::InternalError(
      absl::StrCat("step plan, sequence ", row.seq, ": ", what));
}

}  // namespace

KvPoolOptions PoolOptionsFor(const ModelConfig& config, kernels::KvDtype dtype,
                             uint32_t block_tokens, uint32_t num_blocks) {
  return {.num_blocks = num_blocks,
          .block_tokens = block_tokens,
          .layers = static_cast<int>(config.layers),
          .kv_heads = static_cast<int>(config.kv_heads),
          .head_dim = static_cast<int>(config.head_dim),
          .dtype = dtype};
}

int64_t StepRunner::BufferBytes(const CausalLm& model,
                                const StepLimits& limits) {
  return model.BufferBytes(limits) +
         kernels::SampleScratchBytes(model.config().vocab, limits.threads);
}

absl::StatusOr<std::unique_ptr<StepRunner>> StepRunner::Create(
    const StepRunnerOptions& options) {
  const ModelConfig& config = options.model->config();
  const kvtransfer::GroupLayout& layout = options.pool->layout();
  if (layout.layers != config.layers || layout.heads != config.kv_heads ||
      layout.head_dim != config.head_dim) {
    return absl::InvalidArgumentError(absl::StrCat(
        "KV pool of ", layout.layers, " layers x ", layout.heads, " heads x ",
        layout.head_dim, " does not fit a model of ", config.layers, " x ",
        config.kv_heads, " x ", config.head_dim));
  }
  if (options.model_tokens > options.model->max_positions()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sequences of ", options.model_tokens, " tokens, positions up to ",
        options.model->max_positions()));
  }
  std::unique_ptr<StepRunner> runner(new StepRunner(options));
  const int threads = options.threads->num_threads();
  ASSIGN_OR_RETURN(
      runner->buffers_,
      options.model->MakeBuffers({.max_tokens = options.max_batch_tokens,
                                  .max_kv_len = options.model_tokens,
                                  .max_logit_rows = options.max_batch_seqs,
                                  .threads = threads}));
  ASSIGN_OR_RETURN(
      runner->sample_scratch_,
      PageMemory::Allocate(kernels::SampleScratchBytes(config.vocab, threads),
                           "sampling"));
  runner->ReserveInputs();
  return runner;
}

// Address space more than memory: pages come as steps grow.
void StepRunner::ReserveInputs() {
  const size_t tokens = static_cast<size_t>(options_.max_batch_tokens);
  const size_t seqs = static_cast<size_t>(options_.max_batch_seqs);
  const int64_t block_tokens = options_.pool->block_tokens();
  const size_t blocks = static_cast<size_t>(
      (options_.model_tokens + block_tokens - 1) / block_tokens);
  ids_.reserve(tokens);
  positions_.reserve(tokens);
  slots_.reserve(tokens);
  q_off_.reserve(seqs + 1);
  kv_before_.reserve(seqs);
  block_table_.reserve(seqs * blocks);
  sampling_rows_.reserve(seqs);
  logit_rows_.reserve(seqs);
}

int64_t StepRunner::buffer_bytes() const {
  return buffers_->size_bytes() + sample_scratch_.size_bytes();
}

void StepRunner::UpdateSequences(const StepPlan& plan) {
  for (SequenceKey key : plan.ends) sequences_.erase(key);
  for (const SequenceStart& start : plan.starts) {
    sequences_[start.seq] =
        std::make_unique<SequenceState>(start, options_.eos_ids);
  }
}

absl::Status StepRunner::CheckRow(const PlanRow& row) const {
  const int64_t block_tokens = options_.pool->block_tokens();
  const int64_t end = row.kv_before + static_cast<int64_t>(row.tokens.size());
  if (row.tokens.empty()) return BadRow(row, "no tokens");
  if (end > options_.model_tokens) {
    return BadRow(row,
                  absl::StrCat(end, " entries, limit ", options_.model_tokens));
  }
  if (static_cast<int64_t>(row.blocks.size()) * block_tokens < end) {
    return BadRow(
        row, absl::StrCat(row.blocks.size(), " blocks for ", end, " entries"));
  }
  const int64_t vocab = options_.model->config().vocab;
  if (row.drawn_before()) {
    if (row.samples.size() != 1 || row.samples[0] != row.seq) {
      return BadRow(row, "does not sample after a token drawn before");
    }
    return CheckBlocks(row);
  }
  for (TokenId token : row.tokens) {
    if (token < 0 || token >= vocab) {
      return BadRow(
          row, absl::StrCat("token ", token, " is outside [0, ", vocab, ")"));
    }
  }
  return CheckBlocks(row);
}

absl::Status StepRunner::CheckBlocks(const PlanRow& row) const {
  for (BlockId block : row.blocks) {
    if (block == 0 || block >= options_.pool->num_blocks()) {
      return BadRow(row, absl::StrCat("block ", block, " is outside [1, ",
                                      options_.pool->num_blocks(), ")"));
    }
  }
  return absl::OkStatus();
}

absl::Status StepRunner::AlignStates(const PlanRow& row) {
  const size_t end = row.kv_before + row.tokens.size();
  for (SequenceKey key : row.samples) {
    auto it = sequences_.find(key);
    if (it == sequences_.end()) {
      return BadRow(row, absl::StrCat("samples unknown sequence ", key));
    }
    SequenceState& state = *it->second;
    if (row.drawn_before()) {
      // A draw that failed ended the sequence: nobody reads what follows.
      if (state.tokens().size() == row.kv_before) state.Append(0);
      if (state.tokens().size() == end) continue;
      return BadRow(
          row, absl::StrCat("sequence ", key, " has ", state.tokens().size(),
                            " tokens, wants the one drawn at ", row.kv_before));
    }
    // A token that the engine took from elsewhere comes with the row itself.
    for (size_t j = 0; j < row.tokens.size(); ++j) {
      if (row.kv_before + j == state.tokens().size()) {
        state.Append(row.tokens[j]);
      }
    }
    if (state.tokens().size() < end) {
      return BadRow(
          row, absl::StrCat("sequence ", key, " has ", state.tokens().size(),
                            " tokens, the row ends at ", end));
    }
    // Beyond the row's end: tokens this sequence was given and then denied.
    state.Truncate(static_cast<uint32_t>(end));
  }
  return absl::OkStatus();
}

absl::Status StepRunner::CheckPlan(const StepPlan& plan) const {
  int64_t tokens = 0;
  for (const PlanRow& row : plan.rows) {
    RETURN_IF_ERROR(CheckRow(row));
    if (row.prompt_logprobs >= 0 && !sequences_.contains(row.seq)) {
      return BadRow(row, "prompt logprobs of an unknown sequence");
    }
    tokens += static_cast<int64_t>(row.tokens.size());
  }
  const int64_t seqs = static_cast<int64_t>(plan.rows.size());
  if (seqs > options_.max_batch_seqs || tokens > options_.max_batch_tokens) {
    return absl::InternalError(absl::StrCat(
        "step plan: ", seqs, " rows of ", tokens, " tokens, limits ",
        options_.max_batch_seqs, " and ", options_.max_batch_tokens));
  }
  for (const kernels::BlockCopyPair& pair : plan.copies) {
    if (std::max(pair.from, pair.to) >= options_.pool->num_blocks()) {
      return absl::InternalError(absl::StrCat("step plan: copy of block ",
                                              pair.from, " to ", pair.to));
    }
  }
  return absl::OkStatus();
}

void StepRunner::BuildInputs(const StepPlan& plan) {
  ids_.clear();
  positions_.clear();
  slots_.clear();
  q_off_.assign(1, 0);
  kv_before_.clear();
  const int64_t block_tokens = options_.pool->block_tokens();
  size_t width = 0;
  for (const PlanRow& row : plan.rows) {
    width = std::max(width, row.blocks.size());
  }
  table_width_ = static_cast<int64_t>(width);
  block_table_.assign(plan.rows.size() * width, 0);
  for (size_t r = 0; r < plan.rows.size(); ++r) {
    const PlanRow& row = plan.rows[r];
    ids_.insert(ids_.end(), row.tokens.begin(), row.tokens.end());
    if (row.drawn_before()) {
      ids_.back() = sequences_.at(row.seq)->tokens()[row.kv_before];
    }
    for (size_t j = 0; j < row.tokens.size(); ++j) {
      const int64_t position = row.kv_before + static_cast<int64_t>(j);
      positions_.push_back(position);
      slots_.push_back(int64_t{row.blocks[position / block_tokens]} *
                           block_tokens +
                       position % block_tokens);
    }
    std::copy(row.blocks.begin(), row.blocks.end(),
              block_table_.begin() + r * width);
    kv_before_.push_back(row.kv_before);
    q_off_.push_back(static_cast<uint32_t>(ids_.size()));
  }
}

void StepRunner::BuildAppended(const StepPlan& plan) {
  appended_.clear();
  if (options_.digests == nullptr) return;
  const uint32_t block_tokens = options_.pool->block_tokens();
  for (const PlanRow& row : plan.rows) {
    const uint32_t end =
        row.kv_before + static_cast<uint32_t>(row.tokens.size());
    for (uint32_t t = row.kv_before; t < end;) {
      const uint32_t next =
          std::min(end, (t / block_tokens + 1) * block_tokens);
      appended_.push_back({.block = row.blocks[t / block_tokens],
                           .first_token = t,
                           .num_tokens = next - t});
      t = next;
    }
  }
}

void StepRunner::DigestLayer(uint32_t layer) {
  OpLap lap(buffers_->profile());
  const auto* const region =
      reinterpret_cast<const std::byte*>(options_.pool->base());
  const auto append = [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) {
      kvtransfer::AppendDigests::Tokens tokens = appended_[i];
      tokens.layer = layer;
      options_.digests->Append(tokens, region);
    }
  };
  // No block twice: each belongs to one row.
  const auto count = static_cast<int64_t>(appended_.size());
  const int parts = options_.threads->num_threads();
  if (count < kParallelDigests || parts == 1) {
    append(0, appended_.size());
  } else {
    options_.threads->Run([&](int part) {
      const kernels::WorkRange range = kernels::PartOf(count, 1, part, parts);
      append(static_cast<size_t>(range.begin), static_cast<size_t>(range.end));
    });
  }
  lap.Done(StepOp::kDigestKv);
}

void StepRunner::RunForward(const StepPlan& plan) {
  BuildInputs(plan);
  BuildAppended(plan);
  LayerObserver* const observer = options_.observer;
  options_.model->Forward(context(), *options_.ops,
                          {.ids = ids_,
                           .positions = positions_,
                           .slots = slots_,
                           .q_off = q_off_,
                           .kv_before = kv_before_,
                           .block_table = block_table_.data(),
                           .table_width = table_width_,
                           .kv = options_.pool->layers()},
                          buffers_.get(), [&](int64_t layers) {
                            // Whoever is offered the layer may ask for its
                            // digests.
                            if (!appended_.empty())
                              DigestLayer(static_cast<uint32_t>(layers) - 1);
                            if (observer == nullptr) return;
                            observer->OnLayersDone(
                                plan.step, static_cast<uint32_t>(layers));
                          });
}

void StepRunner::FillLogprobs(std::vector<WantedLogprobs>* wanted) {
  if (wanted->empty()) return;
  OpLap lap(buffers_->profile());
  std::vector<kernels::LogprobsRow> rows;
  rows.reserve(wanted->size());
  for (WantedLogprobs& want : *wanted) {
    want.out->token = want.row.token;
    want.out->top.resize(want.row.num_top);
    want.row.logprob = &want.out->logprob;
    want.row.top = want.out->top.data();
    rows.push_back(want.row);
  }
  options_.ops->logprobs(
      context(), {.rows = rows, .vocab = options_.model->config().vocab});
  lap.Done(StepOp::kLogprobs);
}

void StepRunner::SampleSlice(const StepPlan& plan, size_t first, size_t last,
                             StepResult* result) {
  const int64_t vocab = options_.model->config().vocab;
  logit_rows_.clear();
  for (size_t i = first; i < last; ++i) {
    logit_rows_.push_back(static_cast<int32_t>(q_off_[sampling_rows_[i] + 1]) -
                          1);
  }
  const kernels::MatrixView<const float> logits = options_.model->Logits(
      context(), *options_.ops, logit_rows_, buffers_.get());
  sample_rows_.clear();
  sample_states_.clear();
  const size_t first_result = result->sampled.size();
  for (size_t i = first; i < last; ++i) {
    const float* row_logits = logits.Row(static_cast<int64_t>(i - first));
    std::string digest;
    if (options_.digest_logits) digest = DigestOf(row_logits, vocab);
    for (SequenceKey key : plan.rows[sampling_rows_[i]].samples) {
      SequenceState* state = sequences_.at(key).get();
      sample_states_.push_back(state);
      sample_rows_.push_back(state->RowFor(row_logits));
      result->sampled.push_back({.seq = key,
                                 .token = -1,
                                 .status = kernels::SampleStatus::kOk,
                                 .logprobs = {},
                                 .logits_sha256 = digest});
    }
  }
  sampled_.assign(sample_rows_.size(), -1);
  statuses_.assign(sample_rows_.size(), kernels::SampleStatus::kOk);
  OpLap lap(buffers_->profile());
  options_.ops->sample(context(), {.rows = sample_rows_,
                                   .vocab = vocab,
                                   .scratch = sample_scratch_.data(),
                                   .tokens = sampled_.data(),
                                   .status = statuses_.data()});
  lap.Done(StepOp::kSample);
  std::vector<WantedLogprobs> wanted;
  for (size_t i = 0; i < sampled_.size(); ++i) {
    SampledToken& out = result->sampled[first_result + i];
    out.token = sampled_[i];
    out.status = statuses_[i];
    if (out.status != kernels::SampleStatus::kOk) continue;
    const int32_t alternatives = sample_states_[i]->params().logprobs;
    if (alternatives >= 0) {
      wanted.push_back({.row = {.logits = sample_rows_[i].logits,
                                .token = out.token,
                                .num_top = alternatives},
                        .out = &out.logprobs});
    }
  }
  FillLogprobs(&wanted);
  for (size_t i = 0; i < sampled_.size(); ++i) {
    if (statuses_[i] == kernels::SampleStatus::kOk) {
      sample_states_[i]->Append(sampled_[i]);
    }
  }
}

void StepRunner::RunSamples(const StepPlan& plan, StepResult* result) {
  sampling_rows_.clear();
  size_t num_samples = 0;
  for (size_t r = 0; r < plan.rows.size(); ++r) {
    if (plan.rows[r].samples.empty()) continue;
    sampling_rows_.push_back(r);
    num_samples += plan.rows[r].samples.size();
  }
  // References into `sampled` are taken while it grows.
  result->sampled.reserve(num_samples);
  const size_t slice = static_cast<size_t>(options_.max_batch_seqs);
  for (size_t i = 0; i < sampling_rows_.size(); i += slice) {
    SampleSlice(plan, i, std::min(sampling_rows_.size(), i + slice), result);
  }
}

void StepRunner::RunPromptLogprobs(const PlanRow& row, int64_t first_token,
                                   StepResult* result) {
  const SequenceState& state = *sequences_.at(row.seq);
  // Row j decides position kv_before + j + 1; the prompt's last token decides
  // none of the prompt.
  const int64_t decided =
      std::min<int64_t>(static_cast<int64_t>(row.tokens.size()),
                        int64_t{state.prompt_tokens()} - row.kv_before - 1);
  PromptLogprobs out = {
      .seq = row.seq, .first_position = row.kv_before + 1, .positions = {}};
  out.positions.resize(std::max<int64_t>(decided, 0));
  const int64_t slice = options_.max_batch_seqs;
  for (int64_t begin = 0; begin < decided; begin += slice) {
    const int64_t end = std::min(decided, begin + slice);
    logit_rows_.clear();
    for (int64_t j = begin; j < end; ++j) {
      logit_rows_.push_back(static_cast<int32_t>(first_token + j));
    }
    const kernels::MatrixView<const float> logits = options_.model->Logits(
        context(), *options_.ops, logit_rows_, buffers_.get());
    std::vector<WantedLogprobs> wanted;
    for (int64_t j = begin; j < end; ++j) {
      wanted.push_back({.row = {.logits = logits.Row(j - begin),
                                .token = state.tokens()[row.kv_before + j + 1],
                                .num_top = row.prompt_logprobs},
                        .out = &out.positions[j]});
    }
    FillLogprobs(&wanted);
  }
  result->prompt_logprobs.push_back(std::move(out));
}

void StepRunner::Compute(const StepPlan& plan, StepResult* result) {
  if (!plan.copies.empty()) {
    OpLap lap(buffers_->profile());
    options_.ops->copy_blocks(
        context(),
        {.base = options_.pool->base(),
         .block_stride_bytes = options_.pool->layout().block_stride_bytes(),
         .pairs = plan.copies});
    lap.Done(StepOp::kCopyBlocks);
    if (options_.digests != nullptr) {
      for (const kernels::BlockCopyPair& pair : plan.copies) {
        options_.digests->Forget(pair.to);
      }
    }
  }
  if (plan.rows.empty()) return;
  RunForward(plan);
  for (size_t r = 0; r < plan.rows.size(); ++r) {
    if (plan.rows[r].prompt_logprobs < 0) continue;
    RunPromptLogprobs(plan.rows[r], q_off_[r], result);
  }
  RunSamples(plan, result);
}

absl::StatusOr<StepResult> StepRunner::Run(const StepPlan& plan) {
  StepResult result;
  RETURN_IF_ERROR(RunInto(plan, &result));
  return result;
}

absl::Status StepRunner::RunInto(const StepPlan& plan, StepResult* result) {
  const int64_t start_us = options_.clock->NowMicros();
  result->sampled.clear();
  result->prompt_logprobs.clear();
  UpdateSequences(plan);
  RETURN_IF_ERROR(CheckPlan(plan));
  for (const PlanRow& row : plan.rows) RETURN_IF_ERROR(AlignStates(row));
  StepProfiler* const profiler =
      plan.rows.empty() ? nullptr : options_.profiler;
  OpProfile* const profile = profiler == nullptr ? nullptr : profiler->Begin();
  buffers_->set_profile(profile);
  Compute(plan, result);
  result->compute_us = options_.clock->NowMicros() - start_us;
  if (profile != nullptr) profiler->End(context(), result->compute_us * 1000);
  return absl::OkStatus();
}

}  // namespace sluice::worker
