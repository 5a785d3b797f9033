#include "worker/model/decoder_weights.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::worker {
namespace {

constexpr int kMaxNamesListed = 10;

struct WantedTensor {
  std::string name;
  std::vector<int64_t> shape;
};

std::string BiasName(const std::string& stem, bool wanted) {
  return wanted ? stem + ".bias" : "";
}

LinearSource Source(const std::string& stem, int64_t rows, bool bias) {
  return {
      .weight = stem + ".weight", .bias = BiasName(stem, bias), .rows = rows};
}

// `weight` is the whole name.
LinearSource PlainSource(const std::string& weight, int64_t rows) {
  return {.weight = weight, .bias = "", .rows = rows};
}

// What each matrix of a layer is made of.
struct LayerSources {
  std::vector<LinearSource> qkv, output, gate_up, down;
};

LayerSources SourcesOf(const ModelConfig& c, const LayerTensorNames& n) {
  return {.qkv = {Source(n.q, c.q_width(), c.qkv_bias),
                  Source(n.k, c.kv_width(), c.qkv_bias),
                  Source(n.v, c.kv_width(), c.qkv_bias)},
          .output = {Source(n.o, c.hidden, c.output_bias)},
          .gate_up = {Source(n.gate, c.ffn, c.mlp_bias),
                      Source(n.up, c.ffn, c.mlp_bias)},
          .down = {Source(n.down, c.hidden, c.mlp_bias)}};
}

void WantSources(const std::vector<LinearSource>& sources, int64_t k,
                 std::vector<WantedTensor>* wanted) {
  for (const LinearSource& source : sources) {
    wanted->push_back({source.weight, {source.rows, k}});
    if (!source.bias.empty()) wanted->push_back({source.bias, {source.rows}});
  }
}

std::vector<WantedTensor> AllWanted(const LoadWeightsArgs& args) {
  const ModelConfig& c = args.config;
  const ModelTensorNames names = ModelNames(args.naming);
  std::vector<WantedTensor> wanted;
  wanted.push_back({names.embedding, {c.vocab, c.hidden}});
  for (int64_t l = 0; l < c.layers; ++l) {
    const LayerTensorNames n = LayerNames(args.naming, l);
    const LayerSources s = SourcesOf(c, n);
    wanted.push_back({n.attention_norm + ".weight", {c.hidden}});
    WantSources(s.qkv, c.hidden, &wanted);
    if (c.architecture->norm_of_q_and_k) {
      wanted.push_back({n.q_norm + ".weight", {c.head_dim}});
      wanted.push_back({n.k_norm + ".weight", {c.head_dim}});
    }
    WantSources(s.output, c.q_width(), &wanted);
    wanted.push_back({n.mlp_norm + ".weight", {c.hidden}});
    WantSources(s.gate_up, c.hidden, &wanted);
    WantSources(s.down, c.ffn, &wanted);
  }
  wanted.push_back({names.final_norm, {c.hidden}});
  if (!c.tied_head) wanted.push_back({names.head, {c.vocab, c.hidden}});
  return wanted;
}

absl::Status CheckAllPresent(const WeightFile& file,
                             const std::vector<WantedTensor>& wanted) {
  int missing = 0;
  std::string list;
  for (const WantedTensor& tensor : wanted) {
    if (file.Has(tensor.name)) continue;
    if (missing++ < kMaxNamesListed) {
      absl::StrAppend(&list, missing > 1 ? ", " : "", tensor.name, " ",
                      ShapeText(tensor.shape));
    }
  }
  if (missing == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(
      missing, missing == 1 ? " tensor is" : " tensors are", " missing: ", list,
      missing > kMaxNamesListed ? ", ..." : ""));
}

absl::Status PlanLayer(const LoadWeightsArgs& args, int64_t layer,
                       DecoderLayerWeights* out) {
  const ModelConfig& c = args.config;
  const LayerTensorNames n = LayerNames(args.naming, layer);
  const LayerSources s = SourcesOf(c, n);
  const bool widen = args.widen_to_f32;
  const WeightFile& file = args.file;
  ASSIGN_OR_RETURN(out->attention_norm,
                   file.WantVector(n.attention_norm + ".weight", c.hidden));
  ASSIGN_OR_RETURN(out->qkv, Linear::Plan(file, s.qkv, c.hidden, widen));
  if (c.architecture->norm_of_q_and_k) {
    ASSIGN_OR_RETURN(out->q_norm,
                     file.WantVector(n.q_norm + ".weight", c.head_dim));
    ASSIGN_OR_RETURN(out->k_norm,
                     file.WantVector(n.k_norm + ".weight", c.head_dim));
  }
  ASSIGN_OR_RETURN(out->output,
                   Linear::Plan(file, s.output, c.q_width(), widen));
  ASSIGN_OR_RETURN(out->mlp_norm,
                   file.WantVector(n.mlp_norm + ".weight", c.hidden));
  ASSIGN_OR_RETURN(out->gate_up,
                   Linear::PlanPaired(file, s.gate_up, c.hidden, widen));
  ASSIGN_OR_RETURN(out->down, Linear::Plan(file, s.down, c.ffn, widen));
  return absl::OkStatus();
}

absl::StatusOr<DecoderWeights> PlanWeights(const LoadWeightsArgs& args) {
  const ModelConfig& c = args.config;
  const std::vector<WantedTensor> wanted = AllWanted(args);
  RETURN_IF_ERROR(CheckAllPresent(args.file, wanted));
  const ModelTensorNames names = ModelNames(args.naming);
  DecoderWeights out;
  out.unused_tensors =
      static_cast<int64_t>(args.file.tensors().size() - wanted.size());
  ASSIGN_OR_RETURN(
      out.embedding,
      Linear::Plan(args.file, {PlainSource(names.embedding, c.vocab)}, c.hidden,
                   args.widen_to_f32));
  out.layers.resize(c.layers);
  for (int64_t l = 0; l < c.layers; ++l) {
    RETURN_IF_ERROR(PlanLayer(args, l, &out.layers[l]));
  }
  ASSIGN_OR_RETURN(out.final_norm,
                   args.file.WantVector(names.final_norm, c.hidden));
  out.tied_head = c.tied_head;
  if (!c.tied_head) {
    ASSIGN_OR_RETURN(out.head,
                     Linear::Plan(args.file, {PlainSource(names.head, c.vocab)},
                                  c.hidden, args.widen_to_f32));
  }
  return out;
}

// Every matrix, in the order in which a step reads them.
std::vector<Linear*> AllLinears(DecoderWeights* weights) {
  std::vector<Linear*> all = {&weights->embedding};
  for (DecoderLayerWeights& layer : weights->layers) {
    for (Linear* linear :
         {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      all.push_back(linear);
    }
  }
  if (!weights->tied_head) all.push_back(&weights->head);
  return all;
}

// Repacks every matrix into memory of this process.
absl::StatusOr<PageMemory> PackAll(const kernels::OpContext& context,
                                   const LoadWeightsArgs& args,
                                   const std::vector<Linear*>& linears,
                                   int64_t packed_bytes) {
  int64_t total_bytes = 0;
  for (const Linear* linear : linears) total_bytes += linear->stored_bytes();
  ASSIGN_OR_RETURN(PageMemory memory,
                   PageMemory::Allocate(packed_bytes, "weights"));
  PieceCutter cutter(memory);
  int64_t done_bytes = 0;
  if (args.progress) args.progress(0, total_bytes);
  for (const Linear* linear : linears) {
    RETURN_IF_ERROR(linear->Pack(context, args.file, &cutter));
    done_bytes += linear->stored_bytes();
    if (args.progress) args.progress(done_bytes, total_bytes);
  }
  return memory;
}

PackedPlan PlanOfPacked(const std::vector<Linear*>& linears,
                        bool widen_to_f32) {
  PackedPlan plan = {.text = widen_to_f32 ? "f32\n" : "as stored\n"};
  for (const Linear* linear : linears) {
    plan.size_bytes += linear->packed_bytes();
    absl::StrAppend(&plan.text, linear->PackedText());
  }
  return plan;
}

}  // namespace

absl::StatusOr<int64_t> PackedWeightBytes(const LoadWeightsArgs& args) {
  ASSIGN_OR_RETURN(DecoderWeights weights, PlanWeights(args));
  int64_t bytes = 0;
  for (const Linear* linear : AllLinears(&weights)) {
    bytes += linear->packed_bytes();
  }
  return bytes;
}

absl::StatusOr<DecoderWeights> LoadDecoderWeights(
    const kernels::OpContext& context, const LoadWeightsArgs& args) {
  ASSIGN_OR_RETURN(DecoderWeights weights, PlanWeights(args));
  const std::vector<Linear*> linears = AllLinears(&weights);
  for (Linear* linear : linears) {
    RETURN_IF_ERROR(linear->ReadBiases(args.file));
  }
  const PackedPlan plan = PlanOfPacked(linears, args.widen_to_f32);
  std::optional<PageMemory> cached;
  if (args.cache != nullptr) cached = args.cache->Find(context, plan);
  if (cached.has_value()) {
    weights.memory = *std::move(cached);
  } else {
    args.file.WillRead();
    ASSIGN_OR_RETURN(weights.memory,
                     PackAll(context, args, linears, plan.size_bytes));
    if (args.cache != nullptr) {
      weights.memory =
          args.cache->Keep(context, plan, std::move(weights.memory));
    }
  }
  PieceCutter cutter(weights.memory);
  for (Linear* linear : linears) linear->Place(&cutter);
  return weights;
}

}  // namespace sluice::worker
