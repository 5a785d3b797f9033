#include "worker/model/loaded_model.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "kernels/cpu/thread_pool.h"
#include "worker/model/safetensors.h"
#include "worker/model/source_digests.h"
#include "worker/model/weight_cache.h"

namespace sluice::worker {
namespace {

constexpr uint64_t kMaxTextBytes = 64 << 20;

// A model's files, opened and understood, its weights not yet read.
struct OpenedModel {
  ModelConfig config;
  ModelFiles files;
  WeightFile weights;
  Naming naming = Naming::kGguf;
  std::vector<ManifestEntry> manifest;
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
  int64_t max_context = 0;
};

// Last component of a path, without a .gguf ending.
std::string NameOfPath(absl::string_view path) {
  while (absl::ConsumeSuffix(&path, "/")) {
  }
  const size_t slash = path.rfind('/');
  if (slash != absl::string_view::npos) path.remove_prefix(slash + 1);
  absl::ConsumeSuffix(&path, ".gguf");
  return std::string(path);
}

absl::Status Prefixed(absl::string_view path, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrCat(path, ": ", status.message()));
}

absl::Status OpenGguf(const LoadOptions& options, OpenedModel* out) {
  ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> file,
                   MappedFile::Open(options.path));
  ASSIGN_OR_RETURN(GgufFile gguf, ReadGguf(file));
  absl::StatusOr<ModelConfig> config = ConfigFromGguf(gguf);
  if (!config.ok()) return Prefixed(options.path, config.status());
  out->config = *std::move(config);
  absl::StatusOr<GgufVocabulary> vocabulary = VocabularyFromGguf(gguf.metadata);
  if (!vocabulary.ok()) return Prefixed(options.path, vocabulary.status());
  out->files.vocabulary = *std::move(vocabulary);
  if (gguf.metadata.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(out->files.chat_template,
                     gguf.metadata.String("tokenizer.chat_template"));
  }
  out->weights = std::move(gguf.weights);
  out->naming = Naming::kGguf;
  out->manifest.push_back({.name = "model.gguf", .file = std::move(file)});
  return absl::OkStatus();
}

// Reads a text file of the folder into `text` and the manifest.
absl::Status ReadPart(const std::string& folder, const std::string& name,
                      bool required, OpenedModel* out, std::string* text) {
  const std::string path = absl::StrCat(folder, "/", name);
  absl::StatusOr<std::shared_ptr<const MappedFile>> file =
      MappedFile::Open(path);
  if (absl::IsNotFound(file.status()) && !required) return absl::OkStatus();
  RETURN_IF_ERROR(file.status());
  if ((*file)->size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " has ", (*file)->size(), " bytes, limit ", kMaxTextBytes));
  }
  *text = std::string((*file)->bytes());
  out->manifest.push_back({.name = name, .file = *std::move(file)});
  return absl::OkStatus();
}

absl::Status ReadTexts(const std::string& folder, OpenedModel* out) {
  std::string config_json;
  std::string template_text;
  ModelFiles& files = out->files;
  RETURN_IF_ERROR(ReadPart(folder, "chat_template.jinja", false, out,
                           &files.chat_template));
  RETURN_IF_ERROR(ReadPart(folder, "config.json", true, out, &config_json));
  RETURN_IF_ERROR(ReadPart(folder, "generation_config.json", false, out,
                           &files.generation_config_json));
  RETURN_IF_ERROR(
      ReadPart(folder, "tokenizer.json", true, out, &files.tokenizer_json));
  RETURN_IF_ERROR(ReadPart(folder, "tokenizer_config.json", false, out,
                           &files.tokenizer_config_json));
  absl::StatusOr<ModelConfig> config = ConfigFromJson(config_json);
  if (!config.ok()) return Prefixed(folder, config.status());
  out->config = *std::move(config);
  if (!files.generation_config_json.empty()) {
    absl::StatusOr<std::vector<int64_t>> ids =
        EosIdsFromJson(files.generation_config_json);
    if (!ids.ok()) {
      return Prefixed(absl::StrCat(folder, "/generation_config.json"),
                      ids.status());
    }
    out->config.eos_ids.insert(out->config.eos_ids.end(), ids->begin(),
                               ids->end());
  }
  if (files.chat_template.empty() && !files.tokenizer_config_json.empty()) {
    absl::StatusOr<std::string> text =
        ChatTemplateFromJson(files.tokenizer_config_json);
    if (!text.ok()) {
      return Prefixed(absl::StrCat(folder, "/tokenizer_config.json"),
                      text.status());
    }
    files.chat_template = *std::move(text);
  }
  return absl::OkStatus();
}

absl::Status OpenFolder(const std::string& folder, OpenedModel* out) {
  RETURN_IF_ERROR(ReadTexts(folder, out));
  out->naming = Naming::kHuggingFace;
  ASSIGN_OR_RETURN(out->weights, ReadSafetensorsFolder(folder));
  std::vector<std::shared_ptr<const MappedFile>> shards;
  for (const auto& entry : out->weights.tensors()) {
    shards.push_back(entry.second.file);
  }
  std::sort(shards.begin(), shards.end(),
            [](const auto& a, const auto& b) { return a->path() < b->path(); });
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  for (std::shared_ptr<const MappedFile>& shard : shards) {
    const std::string name = NameOfPath(shard->path());
    out->manifest.push_back({.name = name, .file = std::move(shard)});
  }
  const StoredTensor* embedding =
      out->weights.Find(ModelNames(out->naming).embedding);
  if (embedding != nullptr &&
      embedding->format == kernels::WeightFormat::kF32) {
    out->kv_dtype = kernels::KvDtype::kF32;
  }
  return absl::OkStatus();
}

absl::Status FinishFiles(const LoadOptions& options, OpenedModel* out) {
  const ModelConfig& config = out->config;
  out->max_context =
      options.max_context > 0 ? options.max_context : config.max_positions;
  if (out->max_context > config.max_positions) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.max_context of ", out->max_context,
                     " tokens is above the model's ", config.max_positions));
  }
  ModelFiles& files = out->files;
  files.name = options.name.empty() ? NameOfPath(options.path) : options.name;
  files.architecture = std::string(config.architecture->name);
  files.vocab = static_cast<uint32_t>(config.vocab);
  files.max_context = static_cast<uint32_t>(out->max_context);
  for (int64_t id : config.eos_ids) {
    if (id < 0 || id >= config.vocab) {
      return absl::InvalidArgumentError(
          absl::StrCat(options.path, ": eos token ", id, " is outside [0, ",
                       config.vocab, ")"));
    }
    const int32_t token = static_cast<int32_t>(id);
    if (std::find(files.eos_ids.begin(), files.eos_ids.end(), token) ==
        files.eos_ids.end()) {
      files.eos_ids.push_back(token);
    }
  }
  if (options.kv_dtype.has_value()) out->kv_dtype = *options.kv_dtype;
  return absl::OkStatus();
}

absl::StatusOr<OpenedModel> OpenModel(const LoadOptions& options) {
  struct stat info;
  OpenedModel out;
  if (stat(options.path.c_str(), &info) != 0) {
    return absl::NotFoundError(absl::StrCat("cannot open model ", options.path,
                                            ": ", std::strerror(errno)));
  }
  if (S_ISDIR(info.st_mode)) {
    RETURN_IF_ERROR(OpenFolder(options.path, &out));
  } else {
    RETURN_IF_ERROR(OpenGguf(options, &out));
  }
  RETURN_IF_ERROR(FinishFiles(options, &out));
  return out;
}

void UpdateI64(Sha256* hash, int64_t value) {
  hash->UpdateU32(static_cast<uint32_t>(value));
  hash->UpdateU32(static_cast<uint32_t>(static_cast<uint64_t>(value) >> 32));
}

void UpdateF64(Sha256* hash, double value) {
  int64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  UpdateI64(hash, bits);
}

}  // namespace

absl::string_view Name(WeightsIn place) {
  switch (place) {
    case WeightsIn::kOwnMemory:
      return "repacked";
    case WeightsIn::kNewCache:
      return "cached now";
    case WeightsIn::kKnownCache:
      return "cache";
  }
  return "";
}

absl::StatusOr<LoadedModel> LoadModel(const LoadOptions& options,
                                      const kernels::OpContext& context,
                                      const ProgressFn& progress) {
  ASSIGN_OR_RETURN(OpenedModel opened, OpenModel(options));
  LoadedModel out;
  const int64_t begin_ms = SystemClock::Get().NowMs();
  const auto make_digest = [&] {
    const SourceDigests known({.folder = options.cache_folder});
    opened.files.digest = DigestOfManifest(
        opened.manifest, known,
        options.cache_folder.empty() ? 1 : context.pool->num_threads());
    out.digest_ms = SystemClock::Get().NowMs() - begin_ms;
  };
  std::thread hashing;
  std::optional<WeightCache> cache;
  if (options.cache_folder.empty()) {
    hashing = std::thread(make_digest);
  } else {
    make_digest();
    cache.emplace(WeightCacheOptions{.folder = options.cache_folder},
                  opened.files.digest);
  }
  absl::StatusOr<DecoderWeights> weights = LoadDecoderWeights(
      context, {.config = opened.config,
                .file = opened.weights,
                .naming = opened.naming,
                .widen_to_f32 = options.widen_to_f32,
                .progress = progress,
                .cache = cache.has_value() ? &*cache : nullptr});
  if (hashing.joinable()) hashing.join();
  if (!weights.ok()) return Prefixed(options.path, weights.status());
  for (const ManifestEntry& entry : opened.manifest) {
    RETURN_IF_ERROR(entry.file->CheckUnchanged());
  }
  if (weights->unused_tensors > 0) {
    out.warnings.push_back(absl::StrCat(
        options.path, ": ", weights->unused_tensors, " tensors are of no use"));
  }
  if (cache.has_value()) {
    if (!cache->warning().empty()) out.warnings.push_back(cache->warning());
    out.weights_in = cache->found()  ? WeightsIn::kKnownCache
                     : cache->kept() ? WeightsIn::kNewCache
                                     : WeightsIn::kOwnMemory;
  }
  out.files = std::move(opened.files);
  out.kv_dtype = opened.kv_dtype;
  out.widened_to_f32 = options.widen_to_f32;
  out.weight_bytes = weights->memory.size_bytes();
  out.model = std::make_unique<CausalLm>(
      std::move(opened.config), *std::move(weights), opened.max_context);
  return out;
}

absl::StatusOr<ModelSummary> InspectModel(const LoadOptions& options) {
  ASSIGN_OR_RETURN(OpenedModel opened, OpenModel(options));
  ModelSummary summary;
  const absl::StatusOr<int64_t> bytes =
      PackedWeightBytes({.config = opened.config,
                         .file = opened.weights,
                         .naming = opened.naming,
                         .widen_to_f32 = options.widen_to_f32,
                         .progress = {}});
  if (!bytes.ok()) return Prefixed(options.path, bytes.status());
  summary.weight_bytes = *bytes;
  summary.config = std::move(opened.config);
  summary.files = std::move(opened.files);
  summary.kv_dtype = opened.kv_dtype;
  return summary;
}

std::string KvFingerprint(const LoadedModel& model,
                          absl::string_view numerics_id) {
  const ModelConfig& c = model.model->config();
  Sha256 hash;
  hash.Update("sluice.kv.fingerprint.1");
  hash.Update(ToBytes(model.files.digest));
  hash.UpdateU32(model.widened_to_f32 ? 1 : 0);
  hash.UpdateU32(static_cast<uint32_t>(model.kv_dtype));
  hash.UpdateU32(static_cast<uint32_t>(c.rope_pairs));
  hash.UpdateU32(static_cast<uint32_t>(c.rope.scaling));
  for (int64_t value : {c.rope.rot, c.rope.original_positions}) {
    UpdateI64(&hash, value);
  }
  for (double value : {c.rope.base, c.rope.factor, c.rope.low_freq_factor,
                       c.rope.high_freq_factor, c.rope.beta_fast,
                       c.rope.beta_slow, c.rope.attention_factor}) {
    UpdateF64(&hash, value);
  }
  UpdateI64(&hash, static_cast<int64_t>(c.rope.divisors.size()));
  for (double divisor : c.rope.divisors) UpdateF64(&hash, divisor);
  // One group: key_value with K and V.
  for (int64_t value : {int64_t{1}, c.layers, c.kv_heads, c.head_dim}) {
    UpdateI64(&hash, value);
  }
  hash.UpdateU32(static_cast<uint32_t>(numerics_id.size()));
  hash.Update(numerics_id);
  return ToBytes(hash.Finish());
}

}  // namespace sluice::worker
