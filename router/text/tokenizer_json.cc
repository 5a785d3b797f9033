#include "router/text/tokenizer_json.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "router/text/byte_alphabet.h"
#include "router/text/json_field.h"
#include "router/text/tokenizer_config.h"
#include "router/text/tokenizer_limits.h"
#include "router/text/tokenizer_steps.h"

namespace sluice::router {
namespace {

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", args...));
}

// Reads one file section by section, in the order of the public method.
class Reader {
 public:
  explicit Reader(const Json& root) : root_(root) {}

  absl::StatusOr<TokenizerDefinition> Read(const TokenizerSpec& spec);

 private:
  absl::Status ReadModelKind();
  absl::Status ReadVocab();
  absl::Status PlaceToken(const std::string& token, int32_t id);
  absl::Status CheckHoles();
  absl::Status ReadAddedTokens();
  absl::Status ReadMerges();
  absl::Status ReadModelFlags();
  absl::Status ReadPostProcessor(const Json* section);
  absl::Status ReadTemplate(const Json& processor);
  absl::Status ReadTemplatePiece(const Json& processor, const Json& piece,
                                 bool& seen_text);
  absl::Status ReadConfigs(const TokenizerSpec& spec);
  void FillBytes(const DecoderSection& decoder);

  absl::StatusOr<int32_t> IdOf(absl::string_view token,
                               absl::string_view what) const;

  const Json& root_;
  const Json* model_ = nullptr;
  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool has_template_ = false;
  std::vector<std::optional<std::string>> tokens_;  // [vocab]
  std::vector<bool> is_model_;                      // [vocab] in model.vocab
  std::vector<bool> is_added_;                      // [vocab]
  absl::flat_hash_map<std::string, int32_t> id_of_;
  TokenizerDefinition out_;
};

absl::StatusOr<int32_t> Reader::IdOf(absl::string_view token,
                                     absl::string_view what) const {
  const auto it = id_of_.find(token);
  if (it == id_of_.end()) {
    return Bad(what, " \"", token, "\" is not in the vocabulary");
  }
  return it->second;
}

absl::Status Reader::ReadModelKind() {
  model_ = FindField(root_, "model");
  if (model_ == nullptr || !model_->is_object()) return Bad("no model");
  ASSIGN_OR_RETURN(
      const std::string type,
      StringField(*model_, "type",
                  FindField(*model_, "merges") ? "BPE" : "Unigram"));
  if (type == "Unigram") {
    if (byte_level_) return Bad("model Unigram after ByteLevel");
    out_.model = TokenModel::kUnigram;
  } else if (type == "BPE") {
    out_.model = byte_level_ ? TokenModel::kByteBpe : TokenModel::kCharBpe;
  } else {
    return Bad("model type \"", type, "\" is not supported");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, StringField(*model_, key, ""));
    if (!affix.empty()) return Bad(key, " \"", affix, "\" is not supported");
  }
  const Json* dropout = FindField(*model_, "dropout");
  if (dropout != nullptr && *dropout != 0.0) {
    return Bad("dropout ", Excerpt(*dropout), " is not supported");
  }
  return absl::OkStatus();
}

absl::Status Reader::PlaceToken(const std::string& token, int32_t id) {
  RETURN_IF_ERROR(CheckLimit("token bytes", token.size(), kMaxTokenBytes));
  if (id < 0 || static_cast<size_t>(id) >= kMaxVocabTokens) {
    return Bad("token \"", token, "\" has id ", id, ", limit ",
               kMaxVocabTokens);
  }
  const auto index = static_cast<size_t>(id);
  if (index >= tokens_.size()) tokens_.resize(index + 1);
  if (tokens_[index].has_value() && *tokens_[index] != token) {
    return Bad("id ", id, " is both \"", *tokens_[index], "\" and \"", token,
               "\"");
  }
  tokens_[index] = token;
  if (const auto [it, is_new] = id_of_.try_emplace(token, id);
      !is_new && it->second != id) {
    return Bad("token \"", token, "\" has ids ", it->second, " and ", id);
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadVocab() {
  const Json* vocab = FindField(*model_, "vocab");
  const bool unigram = out_.model == TokenModel::kUnigram;
  if (vocab == nullptr ||
      (unigram ? !vocab->is_array() : !vocab->is_object())) {
    return Bad("model.vocab must be ",
               unigram ? "a list of [token, score]" : "an object");
  }
  RETURN_IF_ERROR(CheckLimit("vocabulary", vocab->size(), kMaxVocabTokens));
  if (!unigram) {
    for (const auto& entry : vocab->items()) {
      ASSIGN_OR_RETURN(const int32_t id, AsInt(entry.value(), entry.key()));
      RETURN_IF_ERROR(PlaceToken(entry.key(), id));
    }
    return absl::OkStatus();
  }
  for (const Json& entry : *vocab) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() ||
        !entry[1].is_number()) {
      return Bad("vocab entry ", Excerpt(entry), " is not [token, score]");
    }
    const auto score = entry[1].get<double>();
    if (!std::isfinite(score)) return Bad("score of ", Excerpt(entry[0]));
    RETURN_IF_ERROR(PlaceToken(entry[0].get<std::string>(),
                               static_cast<int32_t>(out_.scores.size())));
    out_.scores.push_back(score);
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadAddedTokens() {
  const Json* list = FindField(root_, "added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return Bad("added_tokens is not a list");
  RETURN_IF_ERROR(CheckLimit("added tokens", list->size(), kMaxVocabTokens));
  for (const Json& entry : *list) {
    AddedToken token;
    ASSIGN_OR_RETURN(token.id, IntField(entry, "id", -1));
    ASSIGN_OR_RETURN(token.content, StringField(entry, "content", ""));
    ASSIGN_OR_RETURN(token.special, BoolField(entry, "special", false));
    ASSIGN_OR_RETURN(token.single_word, BoolField(entry, "single_word", false));
    ASSIGN_OR_RETURN(token.lstrip, BoolField(entry, "lstrip", false));
    ASSIGN_OR_RETURN(token.rstrip, BoolField(entry, "rstrip", false));
    ASSIGN_OR_RETURN(token.normalized, BoolField(entry, "normalized", false));
    if (token.content.empty()) {
      return Bad("added token ", Excerpt(entry), " has no content");
    }
    RETURN_IF_ERROR(PlaceToken(token.content, token.id));
    out_.added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status Reader::CheckHoles() {
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (!tokens_[id].has_value()) {
      return Bad("no token has id ", id, ", but ", tokens_.size() - 1,
                 " exists");
    }
  }
  if (tokens_.empty()) return Bad("the vocabulary is empty");
  is_model_.resize(tokens_.size(), false);
  is_added_.assign(tokens_.size(), false);
  out_.vocabulary.is_special.assign(tokens_.size(), false);
  for (const AddedToken& token : out_.added_tokens) {
    is_added_[static_cast<size_t>(token.id)] = true;
    out_.vocabulary.is_special[static_cast<size_t>(token.id)] = token.special;
  }
  if (out_.model == TokenModel::kUnigram) {
    out_.scores.resize(tokens_.size(), 0.0);
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadMerges() {
  if (out_.model == TokenModel::kUnigram) return absl::OkStatus();
  const Json* merges = FindField(*model_, "merges");
  if (merges == nullptr) return absl::OkStatus();
  if (!merges->is_array()) return Bad("model.merges is not a list");
  RETURN_IF_ERROR(CheckLimit("merges", merges->size(), kMaxMerges));
  out_.merges.reserve(merges->size());
  for (const Json& entry : *merges) {
    std::vector<std::string> parts;
    if (entry.is_string()) {
      parts = absl::StrSplit(entry.get_ref<const std::string&>(), ' ');
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
               entry[1].is_string()) {
      parts = {entry[0].get<std::string>(), entry[1].get<std::string>()};
    }
    if (parts.size() != 2 || parts[0].empty() || parts[1].empty()) {
      return Bad("merge ", Excerpt(entry), " is not two tokens");
    }
    TokenizerDefinition::Merge merge;
    ASSIGN_OR_RETURN(merge.left, IdOf(parts[0], "merge part"));
    ASSIGN_OR_RETURN(merge.right, IdOf(parts[1], "merge part"));
    ASSIGN_OR_RETURN(merge.merged, IdOf(parts[0] + parts[1], "merge result"));
    out_.merges.push_back(merge);
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadModelFlags() {
  ASSIGN_OR_RETURN(byte_fallback_, BoolField(*model_, "byte_fallback", false));
  ASSIGN_OR_RETURN(out_.ignore_merges,
                   BoolField(*model_, "ignore_merges", false));
  if (out_.model == TokenModel::kUnigram) {
    out_.fuse_unk = true;
    ASSIGN_OR_RETURN(out_.unk_id, IntField(*model_, "unk_id", -1));
    if (out_.unk_id < -1 ||
        out_.unk_id >= static_cast<int32_t>(tokens_.size())) {
      return Bad("unk_id ", out_.unk_id, " is outside [0, ", tokens_.size(),
                 ")");
    }
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(out_.fuse_unk, BoolField(*model_, "fuse_unk", false));
  ASSIGN_OR_RETURN(const std::string unk,
                   StringField(*model_, "unk_token", ""));
  if (!unk.empty() && out_.model == TokenModel::kCharBpe) {
    ASSIGN_OR_RETURN(out_.unk_id, IdOf(unk, "unk_token"));
  }
  return absl::OkStatus();
}

void Reader::FillBytes(const DecoderSection& decoder) {
  out_.vocabulary.strips_leading_space = decoder.strips_leading_space;
  for (size_t id = 0; id < tokens_.size(); ++id) {
    const std::string& token = *tokens_[id];
    std::string model_text;
    if (is_model_[id] && !out_.vocabulary.is_special[id]) {
      model_text = byte_level_ ? BytesOfAlphabet(token).value_or("") : token;
    }
    if (byte_fallback_ && !byte_level_) {
      if (const std::optional<uint8_t> byte = ByteOfFallbackToken(token)) {
        out_.byte_ids[*byte] = static_cast<int32_t>(id);
        model_text.clear();
      }
    }
    out_.model_text.push_back(std::move(model_text));
    out_.vocabulary.token_bytes.push_back(
        is_added_[id] ? token : DecodeToken(decoder, token));
  }
}

absl::Status Reader::ReadTemplatePiece(const Json& processor, const Json& piece,
                                       bool& seen_text) {
  if (FindField(piece, "Sequence") != nullptr) {
    if (seen_text) return Bad("template repeats the text");
    seen_text = true;
    return absl::OkStatus();
  }
  const Json* token = FindField(piece, "SpecialToken");
  if (token == nullptr) return Bad("template piece ", Excerpt(piece));
  ASSIGN_OR_RETURN(const std::string name, StringField(*token, "id", ""));
  const Json* specials = FindField(processor, "special_tokens");
  const Json* special = specials ? FindField(*specials, name) : nullptr;
  const Json* ids = special ? FindField(*special, "ids") : nullptr;
  if (ids == nullptr || !ids->is_array()) {
    return Bad("template token \"", name, "\" has no ids");
  }
  for (const Json& entry : *ids) {
    ASSIGN_OR_RETURN(const int32_t id, AsInt(entry, "ids"));
    if (id < 0 || static_cast<size_t>(id) >= tokens_.size()) {
      return Bad("template token \"", name, "\" has id ", id);
    }
    (seen_text ? out_.suffix_ids : out_.prefix_ids).push_back(id);
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadTemplate(const Json& processor) {
  const Json* single = FindField(processor, "single");
  if (single == nullptr || !single->is_array()) {
    return Bad("TemplateProcessing without a list \"single\"");
  }
  has_template_ = true;
  bool seen_text = false;
  for (const Json& piece : *single) {
    RETURN_IF_ERROR(ReadTemplatePiece(processor, piece, seen_text));
  }
  return seen_text ? absl::OkStatus() : Bad("template without the text");
}

absl::Status Reader::ReadPostProcessor(const Json* section) {
  if (section == nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string type, StringField(*section, "type", ""));
  if (type == "ByteLevel") return absl::OkStatus();  // offsets only
  if (type == "TemplateProcessing") return ReadTemplate(*section);
  const Json* list = FindField(*section, "processors");
  if (type != "Sequence" || list == nullptr || !list->is_array()) {
    return Bad("post_processor ", Excerpt(*section), " is not supported");
  }
  for (const Json& processor : *list) {
    RETURN_IF_ERROR(ReadPostProcessor(&processor));
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadConfigs(const TokenizerSpec& spec) {
  ASSIGN_OR_RETURN(const TokenizerConfig config,
                   ParseTokenizerConfig(spec.tokenizer_config_json));
  ASSIGN_OR_RETURN(const std::vector<int32_t> generation_eos,
                   ParseGenerationEosIds(spec.generation_config_json));
  Vocabulary::Options& vocabulary = out_.vocabulary;
  vocabulary.bos_id = spec.bos_id;
  vocabulary.eos_id = spec.eos_id;
  if (spec.bos_id < 0 && !config.bos_token.empty()) {
    ASSIGN_OR_RETURN(vocabulary.bos_id, IdOf(config.bos_token, "bos_token"));
  }
  if (spec.eos_id < 0 && !config.eos_token.empty()) {
    ASSIGN_OR_RETURN(vocabulary.eos_id, IdOf(config.eos_token, "eos_token"));
  }
  vocabulary.eos_ids.insert(vocabulary.eos_ids.end(), generation_eos.begin(),
                            generation_eos.end());
  if (has_template_) return absl::OkStatus();
  if ((spec.add_bos || config.add_bos_token) && vocabulary.bos_id >= 0) {
    out_.prefix_ids.push_back(vocabulary.bos_id);
  }
  if ((spec.add_eos || config.add_eos_token) && vocabulary.eos_id >= 0) {
    out_.suffix_ids.push_back(vocabulary.eos_id);
  }
  return absl::OkStatus();
}

absl::StatusOr<TokenizerDefinition> Reader::Read(const TokenizerSpec& spec) {
  RETURN_IF_ERROR(
      ParseNormalizer(FindField(root_, "normalizer"), out_.normalizer));
  ASSIGN_OR_RETURN(PreTokenizerSection pre,
                   ParsePreTokenizer(FindField(root_, "pre_tokenizer")));
  out_.pre_tokenizer = std::move(pre.steps);
  byte_level_ = pre.byte_level;
  ASSIGN_OR_RETURN(const DecoderSection decoder,
                   ParseDecoder(FindField(root_, "decoder"), byte_level_));
  RETURN_IF_ERROR(ReadModelKind());
  RETURN_IF_ERROR(ReadVocab());
  for (const auto& token : tokens_) is_model_.push_back(token.has_value());
  RETURN_IF_ERROR(ReadAddedTokens());
  RETURN_IF_ERROR(CheckHoles());
  RETURN_IF_ERROR(ReadMerges());
  RETURN_IF_ERROR(ReadModelFlags());
  FillBytes(decoder);
  RETURN_IF_ERROR(ReadPostProcessor(FindField(root_, "post_processor")));
  RETURN_IF_ERROR(ReadConfigs(spec));
  return std::move(out_);
}

}  // namespace

absl::StatusOr<TokenizerDefinition> DefinitionFromTokenizerJson(
    const TokenizerSpec& spec) {
  RETURN_IF_ERROR(CheckLimit("tokenizer.json bytes", spec.tokenizer_json.size(),
                             kMaxTokenizerJsonBytes));
  ASSIGN_OR_RETURN(const Json root,
                   ParseJson(spec.tokenizer_json, "tokenizer.json"));
  if (!root.is_object()) return Bad("not an object");
  return Reader(root).Read(spec);
}

}  // namespace sluice::router
