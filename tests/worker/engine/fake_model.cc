#include "tests/worker/engine/fake_model.h"

#include "base/check.h"

namespace sluice::worker {
namespace {

uint64_t Mix(uint64_t hash, uint64_t value) {
  uint64_t z = hash * 0x9E3779B97F4A7C15u + value + 1;
  z ^= z >> 30;
  z *= 0xBF58476D1CE4E5B9u;
  z ^= z >> 27;
  z *= 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace

FakeModel::FakeModel(const Options& options)
    : options_(options),
      pool_(size_t{options.num_blocks} * options.block_tokens, -1) {}

TokenId FakeModel::Next(uint64_t seed, const std::vector<TokenId>& tokens,
                        uint32_t prompt_tokens) const {
  uint64_t hash = Mix(seed, prompt_tokens);
  for (TokenId token : tokens) hash = Mix(hash, static_cast<uint64_t>(token));
  if (options_.eos_in != 0 && (hash >> 40) % options_.eos_in == 0) {
    return options_.eos;
  }
  auto token = static_cast<TokenId>(hash % options_.vocab);
  if (token == options_.eos) {
    token = static_cast<TokenId>((token + 1) % options_.vocab);
  }
  return token;
}

StepResult FakeModel::Run(const StepPlan& plan) {
  SLUICE_CHECK(plan.step > 0);
  for (SequenceKey seq : plan.ends) {
    SLUICE_CHECK(sequences_.erase(seq) == 1);
    ended_.insert(seq);
  }
  for (const SequenceStart& start : plan.starts) {
    SLUICE_CHECK(ended_.count(start.seq) == 0);
    SLUICE_CHECK(
        sequences_
            .emplace(start.seq, State{start.tokens, start.prompt_tokens,
                                      start.seed, start.sampling->logprobs})
            .second);
  }
  std::set<uint32_t> sources;
  for (const auto& copy : plan.copies) sources.insert(copy.from);
  for (const auto& copy : plan.copies) {
    SLUICE_CHECK(copy.from != 0 && copy.to != 0);
    SLUICE_CHECK(sources.count(copy.to) == 0);
    for (uint32_t i = 0; i < options_.block_tokens; ++i) {
      pool_[copy.to * options_.block_tokens + i] =
          pool_[copy.from * options_.block_tokens + i];
    }
  }
  StepResult result;
  std::set<uint64_t> written;
  // All rows write before any reads: within a layer that is the order.
  for (const PlanRow& row : plan.rows) RunRow(row, written, result);
  return result;
}

void FakeModel::RunRow(const PlanRow& row, std::set<uint64_t>& written,
                       StepResult& result) {
  const uint32_t bt = options_.block_tokens;
  State& state = sequences_.at(row.seq);
  const auto end = static_cast<uint32_t>(row.kv_before + row.tokens.size());
  SLUICE_CHECK(!row.tokens.empty());
  if (row.drawn_before()) {
    SLUICE_CHECK(row.samples == std::vector<SequenceKey>{row.seq});
    // Ended by a draw that failed: what is drawn now, nobody may read.
    if (state.tokens.size() == row.kv_before) state.tokens.push_back(0);
  }
  SLUICE_CHECK(end <= state.tokens.size());
  SLUICE_CHECK(row.blocks.size() == (end + bt - 1) / bt);
  for (BlockId block : row.blocks) {
    SLUICE_CHECK(block != 0 && block < options_.num_blocks);
  }
  for (uint32_t p = row.kv_before; p < end; ++p) {
    const uint64_t slot = uint64_t{row.blocks[p / bt]} * bt + p % bt;
    SLUICE_CHECK(written.insert(slot).second);
    const TokenId token = row.tokens[p - row.kv_before];
    SLUICE_CHECK(token == kDrawnBefore || token == state.tokens[p]);
    pool_[slot] = state.tokens[p];
  }
  std::vector<TokenId> context;
  for (uint32_t p = 0; p < end; ++p) {
    context.push_back(pool_[uint64_t{row.blocks[p / bt]} * bt + p % bt]);
    SLUICE_CHECK(context.back() == state.tokens[p]);
  }
  if (row.prompt_logprobs >= 0) {
    PromptLogprobs part;
    part.seq = row.seq;
    part.first_position = row.kv_before + 1;
    for (uint32_t p = row.kv_before + 1; p <= end && p < state.prompt_tokens;
         ++p) {
      part.positions.push_back({.token = state.tokens[p],
                                .logprob = -static_cast<float>(p),
                                .top = {}});
    }
    result.prompt_logprobs.push_back(std::move(part));
  }
  SLUICE_CHECK(row.samples.empty() == (end < state.tokens.size()));
  for (SequenceKey seq : row.samples) {
    State& sampled = sequences_.at(seq);
    SLUICE_CHECK(sampled.tokens == context);
    SampledToken token;
    token.seq = seq;
    token.token = Next(sampled.seed, context, sampled.prompt_tokens);
    if (edit) edit(token, end);
    if (sampled.logprobs >= 0) {
      token.logprobs = {
          .token = token.token, .logprob = -static_cast<float>(end), .top = {}};
    }
    if (token.status == kernels::SampleStatus::kOk) {
      sampled.tokens.push_back(token.token);
    } else {
      token.token = -1;
    }
    result.sampled.push_back(token);
  }
}

void FakeModel::Receive(const std::vector<TokenId>& tokens, uint32_t begin,
                        const std::vector<BlockId>& blocks) {
  const uint32_t bt = options_.block_tokens;
  for (uint32_t p = begin; p < tokens.size(); ++p) {
    pool_[uint64_t{blocks[p / bt]} * bt + p % bt] = tokens[p];
  }
}

}  // namespace sluice::worker
