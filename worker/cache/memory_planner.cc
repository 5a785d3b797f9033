#include "worker/cache/memory_planner.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace sluice::worker {
namespace {

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks of the longest sequence, with the entries drafts may add.
int64_t SequenceBlocks(const MemoryPlanInput& in) {
  return CeilDiv(in.model_tokens + 2 * in.draft_tokens + 1, in.block_tokens);
}

int64_t ActivationBytesPerToken(const MemoryPlanInput& in) {
  const PlannedModel& m = in.target;
  const int64_t attention =
      m.heads * m.head_dim + 2 * m.kv_heads * m.head_dim + m.heads * m.head_dim;
  return in.element_bytes * (3 * m.hidden + std::max(attention, 3 * m.ffn));
}

BudgetLine LogitsLine(const MemoryPlanInput& in) {
  const int64_t rows = in.max_batch_seqs * (1 + in.draft_tokens);
  const int64_t vocab = in.target.vocab;
  BudgetLine line = {
      .name = absl::StrCat("logits ", rows, " x ", vocab, " x 4"),
      .bytes = rows * vocab * 4};
  if (in.draft.weight_bytes > 0) {
    absl::StrAppend(&line.name, " + ", in.max_batch_seqs, " x ", vocab, " x 4");
    line.bytes += in.max_batch_seqs * vocab * 4;
  }
  return line;
}

// The fixed lines in the order they are printed; those of 0 are left out.
std::vector<BudgetLine> FixedLines(const MemoryPlanInput& in) {
  std::vector<BudgetLine> lines;
  const auto add = [&lines](BudgetLine line) {
    if (line.bytes > 0) lines.push_back(std::move(line));
  };
  add({.name = "target weights", .bytes = in.target.weight_bytes});
  add({.name =
           in.draft.shared.empty()
               ? std::string("draft weights")
               : absl::StrCat("draft weights (", in.draft.shared, " shared)"),
       .bytes = in.draft.weight_bytes});
  if (in.buffer_bytes) {
    add({.name = absl::StrCat("step buffers ", in.max_batch_tokens, " tokens, ",
                              in.max_batch_seqs, " seqs"),
         .bytes = in.buffer_bytes(in)});
  } else {
    const int64_t per_token = ActivationBytesPerToken(in);
    add({.name = absl::StrCat("activations ", in.max_batch_tokens, " x ",
                              per_token),
         .bytes = in.max_batch_tokens * per_token});
    add(LogitsLine(in));
  }
  add({.name = "hidden states",
       .bytes = in.max_batch_tokens * in.draft.features * in.target.hidden *
                in.element_bytes});
  const int64_t width = SequenceBlocks(in);
  add({.name = absl::StrCat("step inputs ", in.max_batch_seqs, " x ", width,
                            " x 4"),
       .bytes = in.max_batch_seqs * width * 4});
  const int64_t mib = in.captured_step_bytes >> 20;
  add({.name = absl::StrCat("captured steps ", in.captured_steps, " x ", mib,
                            " MiB"),
       .bytes = in.captured_steps * in.captured_step_bytes});
  add({.name = "margin", .bytes = in.margin_bytes});
  return lines;
}

absl::Status CheckInput(const MemoryPlanInput& in) {
  struct Size {
    const char* name;
    int64_t value;
    int64_t min;
  };
  // The upper limit keeps every product below 2^63.
  constexpr int64_t kMax = int64_t{1} << 50;
  const Size sizes[] = {
      {"weight bytes", in.target.weight_bytes, 0},
      {"hidden", in.target.hidden, 1},
      {"heads", in.target.heads, 1},
      {"kv heads", in.target.kv_heads, 1},
      {"head_dim", in.target.head_dim, 1},
      {"ffn", in.target.ffn, 1},
      {"vocab", in.target.vocab, 1},
      {"block bytes", in.block_bytes, 1},
      {"block digest bytes", in.block_digest_bytes, 0},
      {"block_tokens", in.block_tokens, 1},
      {"model length", in.model_tokens, 1},
      {"max_batch_seqs", in.max_batch_seqs, 1},
      {"max_batch_tokens", in.max_batch_tokens, 1},
      {"free bytes", in.free_bytes, 0},
      {"fraction numerator", in.fraction_num, 1},
      {"fraction denominator", in.fraction_den, 1},
      {"kv bytes", in.kv_bytes, 0},
      {"kv blocks", in.blocks, 0},
  };
  for (const Size& size : sizes) {
    if (size.value < size.min || size.value > kMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("memory plan: ", size.name, " must be in [", size.min,
                       ", ", kMax, "], got ", size.value));
    }
  }
  if (in.max_batch_seqs > (1 << 20) || in.max_batch_tokens > (1 << 24)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "memory plan: batch limits out of range: ", in.max_batch_seqs,
        " seqs, ", in.max_batch_tokens, " tokens"));
  }
  return absl::OkStatus();
}

// The numbers of a plan; no text yet.
MemoryPlan Count(const MemoryPlanInput& in) {
  MemoryPlan plan;
  // free x num could pass 2^63: split by quotient and rest, which is exact.
  plan.budget_bytes =
      in.free_bytes / in.fraction_den * in.fraction_num +
      in.free_bytes % in.fraction_den * in.fraction_num / in.fraction_den;
  plan.fixed = FixedLines(in);
  for (const BudgetLine& line : plan.fixed) plan.fixed_bytes += line.bytes;
  plan.min_blocks = SequenceBlocks(in) + 1;
  plan.max_blocks = in.max_batch_seqs * SequenceBlocks(in) + 1;
  // An operator's choice is of the blocks alone.
  const int64_t fit =
      in.kv_bytes > 0
          ? in.kv_bytes / in.block_bytes
          : std::max<int64_t>(plan.budget_bytes - plan.fixed_bytes, 0) /
                (in.block_bytes + in.block_digest_bytes);
  plan.num_blocks = in.blocks > 0 ? in.blocks : std::min(fit, plan.max_blocks);
  plan.kv_tokens = std::max<int64_t>(plan.num_blocks - 1, 0) * in.block_tokens;
  return plan;
}

bool Fits(const MemoryPlanInput& in) {
  const MemoryPlan plan = Count(in);
  return plan.num_blocks >= plan.min_blocks;
}

std::string Line(const std::string& name, int64_t bytes) {
  return absl::StrFormat("%-46s%12d%10.3f", name, bytes, bytes / kGib);
}

std::string BudgetText(const MemoryPlanInput& in, const MemoryPlan& plan) {
  const std::string head =
      absl::StrCat("free ", in.free_bytes, " B x ", in.fraction_num, "/",
                   in.fraction_den, " = budget");
  std::string text =
      absl::StrFormat("%-46s%12d B%8.3f GiB\n", head, plan.budget_bytes,
                      plan.budget_bytes / kGib);
  for (const BudgetLine& line : plan.fixed) {
    absl::StrAppend(&text, Line(line.name, line.bytes), "\n");
  }
  const int64_t kv_bytes = plan.num_blocks * in.block_bytes;
  const std::string kv =
      absl::StrCat("kv: ", plan.num_blocks, " blocks x ", in.block_bytes, " B");
  absl::StrAppend(&text, Line(kv, kv_bytes), "   ", plan.kv_tokens,
                  " tokens\n");
  const int64_t digest_bytes = plan.num_blocks * in.block_digest_bytes;
  if (digest_bytes > 0) {
    absl::StrAppend(&text,
                    Line(absl::StrCat("kv digests: ", plan.num_blocks, " x ",
                                      in.block_digest_bytes, " B"),
                         digest_bytes),
                    "\n");
  }
  const int64_t unused =
      plan.budget_bytes - plan.fixed_bytes - kv_bytes - digest_bytes;
  absl::StrAppend(&text,
                  Line(unused >= 0 ? "unused" : "over the budget",
                       unused >= 0 ? unused : -unused),
                  "\n");
  return text;
}

// The largest value of `field` in [1, its present one) with which the plan
// fits, alone; 0 when none does.
int64_t LargestThatFits(const MemoryPlanInput& in,
                        int64_t MemoryPlanInput::*field) {
  int64_t good = 0;
  int64_t bad = in.*field;
  while (bad - good > 1) {
    const int64_t middle = good + (bad - good) / 2;
    MemoryPlanInput changed = in;
    changed.*field = middle;
    (Fits(changed) ? good : bad) = middle;
  }
  return good;
}

std::string Advice(const MemoryPlanInput& in) {
  struct Option {
    const char* flag;
    int64_t MemoryPlanInput::*field;
  };
  const Option options[] = {
      {"--model.max_context", &MemoryPlanInput::model_tokens},
      {"--sched.max_batch_seqs", &MemoryPlanInput::max_batch_seqs},
      {"--sched.max_batch_tokens", &MemoryPlanInput::max_batch_tokens},
  };
  std::string advice;
  for (const Option& option : options) {
    const int64_t value = LargestThatFits(in, option.field);
    if (value == 0) continue;
    absl::StrAppend(&advice, advice.empty() ? "would fit: " : ", or ",
                    option.flag, "=", value);
  }
  if (advice.empty()) {
    return "no smaller max_context or batch alone would fit";
  }
  return advice;
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(const MemoryPlanInput& input) {
  RETURN_IF_ERROR(CheckInput(input));
  MemoryPlan plan = Count(input);
  plan.text = BudgetText(input, plan);
  if (plan.num_blocks < plan.min_blocks) {
    const int64_t over = plan.fixed_bytes - plan.budget_bytes;
    const std::string why =
        over > 0 && input.kv_bytes == 0 && input.blocks == 0
            ? absl::StrCat("fixed lines exceed the budget by ", over, " B")
            : absl::StrCat(plan.num_blocks,
                           " KV blocks, the smallest legal "
                           "pool has ",
                           plan.min_blocks);
    return absl::ResourceExhaustedError(absl::StrCat(
        "not enough memory: ", why, "\n", plan.text, Advice(input)));
  }
  if (plan.fixed_bytes > plan.budget_bytes / 100 * 95) {
    plan.warnings.push_back(absl::StrCat("fixed lines take ", plan.fixed_bytes,
                                         " of ", plan.budget_bytes,
                                         " budget bytes"));
  }
  return plan;
}

}  // namespace sluice::worker
