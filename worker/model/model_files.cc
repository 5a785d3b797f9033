#include "worker/model/model_files.h"

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::worker {
namespace {

using Json = nlohmann::json;

std::string Key(const char* name) {
  return absl::StrCat("tokenizer.ggml.", name);
}

absl::Status ReadId(const GgufMetadata& m, const char* name,
                    std::optional<uint32_t>* id) {
  if (!m.Has(Key(name))) return absl::OkStatus();
  ASSIGN_OR_RETURN(int64_t value, m.Count(Key(name)));
  if (value > INT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat(
        "GGUF key ", Key(name), " must be a token id, got ", value));
  }
  *id = static_cast<uint32_t>(value);
  return absl::OkStatus();
}

absl::Status ReadFlag(const GgufMetadata& m, const char* name,
                      std::optional<bool>* flag) {
  if (!m.Has(Key(name))) return absl::OkStatus();
  ASSIGN_OR_RETURN(*flag, m.Bool(Key(name)));
  return absl::OkStatus();
}

absl::Status ReadLists(const GgufMetadata& m, GgufVocabulary* out) {
  ASSIGN_OR_RETURN(out->tokens, m.Strings(Key("tokens")));
  if (m.Has(Key("merges"))) {
    ASSIGN_OR_RETURN(out->merges, m.Strings(Key("merges")));
  }
  if (m.Has(Key("scores"))) {
    ASSIGN_OR_RETURN(std::vector<double> scores, m.Numbers(Key("scores")));
    out->scores.assign(scores.begin(), scores.end());
  }
  if (m.Has(Key("token_type"))) {
    ASSIGN_OR_RETURN(std::vector<double> types, m.Numbers(Key("token_type")));
    for (double type : types) {
      if (!(type >= 0 && type < 1000)) {
        return absl::InvalidArgumentError(
            absl::StrCat("GGUF key ", Key("token_type"), " holds ", type));
      }
      out->token_types.push_back(static_cast<int32_t>(type));
    }
  }
  for (auto [name, size] : {std::pair("scores", out->scores.size()),
                            std::pair("token_type", out->token_types.size())}) {
    if (size != 0 && size != out->tokens.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF key ", Key(name), " has ", size, " entries for ",
                       out->tokens.size(), " tokens"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufVocabulary> VocabularyFromGguf(const GgufMetadata& m) {
  GgufVocabulary out;
  ASSIGN_OR_RETURN(out.model, m.String(Key("model")));
  if (m.Has(Key("pre"))) {
    ASSIGN_OR_RETURN(out.pre, m.String(Key("pre")));
  }
  RETURN_IF_ERROR(ReadLists(m, &out));
  RETURN_IF_ERROR(ReadId(m, "bos_token_id", &out.bos_id));
  RETURN_IF_ERROR(ReadId(m, "eos_token_id", &out.eos_id));
  RETURN_IF_ERROR(ReadId(m, "unknown_token_id", &out.unk_id));
  RETURN_IF_ERROR(ReadId(m, "padding_token_id", &out.pad_id));
  RETURN_IF_ERROR(ReadFlag(m, "add_bos_token", &out.add_bos));
  RETURN_IF_ERROR(ReadFlag(m, "add_eos_token", &out.add_eos));
  RETURN_IF_ERROR(ReadFlag(m, "add_space_prefix", &out.add_space_prefix));
  return out;
}

absl::StatusOr<std::string> ChatTemplateFromJson(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (json.is_discarded() || !json.is_object()) {
    return absl::InvalidArgumentError("not a JSON object");
  }
  auto it = json.find("chat_template");
  if (it == json.end() || it->is_null()) return std::string();
  if (it->is_string()) return it->get<std::string>();
  if (it->is_array()) {
    for (const Json& named : *it) {
      if (!named.is_object()) continue;
      const auto name = named.find("name");
      const auto text_it = named.find("template");
      if (name != named.end() && *name == "default" && text_it != named.end() &&
          text_it->is_string()) {
        return text_it->get<std::string>();
      }
    }
    return std::string();
  }
  return absl::InvalidArgumentError(
      "chat_template must be a string or a list of named templates");
}

Sha256Digest DigestOfManifest(const std::vector<ManifestEntry>& manifest,
                              const SourceDigests& known, int threads) {
  std::vector<Sha256Digest> digests(manifest.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < manifest.size(); i = next++) {
      digests[i] = known.Of(*manifest[i].file);
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  Sha256 all;
  for (size_t i = 0; i < manifest.size(); ++i) {
    const uint64_t size = manifest[i].file->size();
    all.UpdateU32(static_cast<uint32_t>(manifest[i].name.size()));
    all.Update(manifest[i].name);
    all.UpdateU32(static_cast<uint32_t>(size));
    all.UpdateU32(static_cast<uint32_t>(size >> 32));
    all.Update(ToBytes(digests[i]));
  }
  return all.Finish();
}

}  // namespace sluice::worker
