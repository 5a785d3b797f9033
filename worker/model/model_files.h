#ifndef WORKER_MODEL_MODEL_FILES_H_
#define WORKER_MODEL_MODEL_FILES_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/sha256.h"
#include "worker/model/gguf.h"
#include "worker/model/mapped_file.h"
#include "worker/model/source_digests.h"

namespace sluice::worker {

// The vocabulary of a GGUF file (keys tokenizer.ggml.*), as stored.
struct GgufVocabulary {
  std::string model;  // "gpt2", "llama"
  std::string pre;    // pre-tokenizer; empty: not stated
  std::vector<std::string> tokens;
  std::vector<float> scores;         // empty or one a token
  std::vector<int32_t> token_types;  // empty or one a token
  std::vector<std::string> merges;
  std::optional<uint32_t> bos_id, eos_id, unk_id, pad_id;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
};

// What a model's files say to those who do not compute: the contents of the
// model card. A plain value.
struct ModelFiles {
  std::string name;          // served name
  std::string architecture;  // "llama", ...
  // From a folder; empty for GGUF. generation_config may be missing.
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string generation_config_json;
  std::string chat_template;                 // empty: none
  std::optional<GgufVocabulary> vocabulary;  // from a GGUF file
  std::vector<int32_t> eos_ids;              // of every source, each once
  uint32_t vocab = 0;
  uint32_t max_context = 0;  // tokens
  Sha256Digest digest{};     // of the model
};

absl::StatusOr<GgufVocabulary> VocabularyFromGguf(const GgufMetadata& metadata);

// The template of tokenizer_config.json ("chat_template": a string, or a list
// of named ones of which "default" counts); empty when there is none.
absl::StatusOr<std::string> ChatTemplateFromJson(absl::string_view text);

// One file of a model: its manifest name and content.
struct ManifestEntry {
  std::string name;
  std::shared_ptr<const MappedFile> file;
};

// SHA-256 of the manifest: for each entry in the order given u32 length and
// name, u64 size (little endian) and the SHA-256 of the content. Files are
// hashed side by side on `threads` threads of its own, those that `known`
// remembers not at all.
Sha256Digest DigestOfManifest(const std::vector<ManifestEntry>& manifest,
                              const SourceDigests& known, int threads);

}  // namespace sluice::worker

#endif  // WORKER_MODEL_MODEL_FILES_H_
