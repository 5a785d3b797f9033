#include "router/text/tokenizer_steps.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "router/text/byte_alphabet.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

absl::Status Unsupported(absl::string_view section, const Json& step) {
  return absl::InvalidArgumentError(absl::StrCat(
      section, " ", Excerpt(step), " is not supported by this build"));
}

// The members of a "Sequence", else the section itself.
absl::StatusOr<std::vector<const Json*>> StepsOf(const Json* section,
                                                 absl::string_view list_key) {
  std::vector<const Json*> steps;
  if (section == nullptr) return steps;
  ASSIGN_OR_RETURN(const std::string type, StringField(*section, "type", ""));
  if (type != "Sequence") {
    steps.push_back(section);
    return steps;
  }
  const Json* list = FindField(*section, list_key);
  if (list == nullptr || !list->is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat("Sequence without a list \"", list_key, "\""));
  }
  for (const Json& step : *list) {
    ASSIGN_OR_RETURN(const std::vector<const Json*> nested,
                     StepsOf(&step, list_key));
    steps.insert(steps.end(), nested.begin(), nested.end());
  }
  return steps;
}

struct PatternField {
  bool is_text;      // literal, not an expression
  std::string text;  // not empty
};

// {"String": text} or {"Regex": expression}
absl::StatusOr<PatternField> ParsePattern(const Json& step) {
  const Json* pattern = FindField(step, "pattern");
  if (pattern == nullptr) return Unsupported("pattern of", step);
  ASSIGN_OR_RETURN(std::string text, StringField(*pattern, "String", ""));
  if (!text.empty()) return PatternField{true, std::move(text)};
  ASSIGN_OR_RETURN(text, StringField(*pattern, "Regex", ""));
  if (text.empty()) return Unsupported("pattern of", step);
  return PatternField{false, std::move(text)};
}

std::optional<Normalizer::Form> FormOf(absl::string_view type) {
  if (type == "NFC") return Normalizer::Form::kNfc;
  if (type == "NFD") return Normalizer::Form::kNfd;
  if (type == "NFKC") return Normalizer::Form::kNfkc;
  if (type == "NFKD") return Normalizer::Form::kNfkd;
  if (type == "Lowercase") return Normalizer::Form::kLowercase;
  if (type == "StripAccents") return Normalizer::Form::kStripAccents;
  return std::nullopt;
}

absl::Status ParseNormalizerStep(const Json& step, Normalizer& out) {
  ASSIGN_OR_RETURN(const std::string type, StringField(step, "type", ""));
  if (const std::optional<Normalizer::Form> form = FormOf(type)) {
    out.AddForm(*form);
  } else if (type == "Prepend") {
    ASSIGN_OR_RETURN(std::string text, StringField(step, "prepend", ""));
    out.AddPrepend(std::move(text));
  } else if (type == "Replace") {
    ASSIGN_OR_RETURN(PatternField from, ParsePattern(step));
    ASSIGN_OR_RETURN(std::string to, StringField(step, "content", ""));
    if (from.is_text) {
      out.AddReplaceText(std::move(from.text), std::move(to));
    } else {
      ASSIGN_OR_RETURN(Pattern pattern, Pattern::Compile(from.text));
      out.AddReplacePattern(std::move(pattern), std::move(to));
    }
  } else if (type == "Strip") {
    ASSIGN_OR_RETURN(const bool left, BoolField(step, "strip_left", true));
    ASSIGN_OR_RETURN(const bool right, BoolField(step, "strip_right", true));
    out.AddStrip(left, right);
  } else {
    return Unsupported("normalizer", step);
  }
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizer::Behavior> ParseBehavior(const Json& step) {
  ASSIGN_OR_RETURN(const std::string name, StringField(step, "behavior", ""));
  if (name == "Removed") return PreTokenizer::Behavior::kRemoved;
  if (name == "Isolated") return PreTokenizer::Behavior::kIsolated;
  if (name == "MergedWithPrevious") {
    return PreTokenizer::Behavior::kMergedWithPrevious;
  }
  if (name == "MergedWithNext") return PreTokenizer::Behavior::kMergedWithNext;
  if (name == "Contiguous") return PreTokenizer::Behavior::kContiguous;
  return Unsupported("split behavior of", step);
}

absl::Status AddSplit(absl::string_view expression,
                      PreTokenizer::Behavior behavior, bool invert,
                      PreTokenizer& out) {
  ASSIGN_OR_RETURN(Pattern pattern, Pattern::Compile(expression));
  out.Add(PreTokenizer::Split{std::move(pattern), behavior, invert});
  return absl::OkStatus();
}

// How Metaspace and its decoder treat the first word.
absl::StatusOr<PreTokenizer::PrependScheme> ParsePrependScheme(
    const Json& step) {
  ASSIGN_OR_RETURN(const std::string scheme,
                   StringField(step, "prepend_scheme", ""));
  ASSIGN_OR_RETURN(const bool prefix,
                   BoolField(step, "add_prefix_space", true));
  if (scheme == "never" || !prefix) return PreTokenizer::PrependScheme::kNever;
  if (scheme == "first") return PreTokenizer::PrependScheme::kFirst;
  if (scheme == "always" || scheme.empty()) {
    return PreTokenizer::PrependScheme::kAlways;
  }
  return Unsupported("prepend_scheme of", step);
}

absl::StatusOr<std::string> ParseReplacement(const Json& step) {
  ASSIGN_OR_RETURN(std::string mark, StringField(step, "replacement", "▁"));
  if (mark.empty() ||
      Utf8SizeOfLead(static_cast<uint8_t>(mark[0])) != mark.size()) {
    return Unsupported("replacement of", step);
  }
  return mark;
}

absl::Status ParsePreTokenizerStep(const Json& step, PreTokenizerSection& out) {
  ASSIGN_OR_RETURN(const std::string type, StringField(step, "type", ""));
  if (out.byte_level) {
    return absl::InvalidArgumentError(
        absl::StrCat("pre_tokenizer ", Excerpt(step), " follows ByteLevel"));
  }
  if (type == "ByteLevel") {
    out.byte_level = true;
    ASSIGN_OR_RETURN(const bool prefix,
                     BoolField(step, "add_prefix_space", true));
    ASSIGN_OR_RETURN(const bool regex, BoolField(step, "use_regex", true));
    if (prefix) out.steps.Add(PreTokenizer::PrefixSpace{});
    if (regex) out.steps.AddGpt2();
    return absl::OkStatus();
  }
  if (type == "Split") {
    ASSIGN_OR_RETURN(const PatternField pattern, ParsePattern(step));
    ASSIGN_OR_RETURN(const PreTokenizer::Behavior behavior,
                     ParseBehavior(step));
    ASSIGN_OR_RETURN(const bool invert, BoolField(step, "invert", false));
    return AddSplit(pattern.is_text ? QuotePattern(pattern.text) : pattern.text,
                    behavior, invert, out.steps);
  }
  if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual,
                     BoolField(step, "individual_digits", false));
    return AddSplit(individual ? "\\p{N}" : "\\p{N}+",
                    PreTokenizer::Behavior::kIsolated, false, out.steps);
  }
  if (type == "WhitespaceSplit") {
    return AddSplit("\\s", PreTokenizer::Behavior::kRemoved, false, out.steps);
  }
  if (type == "Metaspace") {
    ASSIGN_OR_RETURN(std::string mark, ParseReplacement(step));
    ASSIGN_OR_RETURN(const PreTokenizer::PrependScheme scheme,
                     ParsePrependScheme(step));
    ASSIGN_OR_RETURN(const bool split, BoolField(step, "split", true));
    out.steps.Add(PreTokenizer::Metaspace{std::move(mark), scheme, split});
    return absl::OkStatus();
  }
  return Unsupported("pre_tokenizer", step);
}

absl::Status ParseStripDecoder(const Json& step, DecoderSection& out) {
  ASSIGN_OR_RETURN(const std::string content, StringField(step, "content", ""));
  ASSIGN_OR_RETURN(const int32_t start, IntField(step, "start", 0));
  ASSIGN_OR_RETURN(const int32_t stop, IntField(step, "stop", 0));
  if (content != " " || start < 0 || start > 1 || stop != 0) {
    return Unsupported("decoder", step);
  }
  out.strips_leading_space = start == 1;
  return absl::OkStatus();
}

absl::Status ParseDecoderStep(const Json& step, DecoderSection& out) {
  ASSIGN_OR_RETURN(const std::string type, StringField(step, "type", ""));
  if (type == "ByteLevel") {
    out.byte_level = true;
  } else if (type == "ByteFallback") {
    out.byte_fallback = true;
  } else if (type == "Replace") {
    ASSIGN_OR_RETURN(PatternField from, ParsePattern(step));
    ASSIGN_OR_RETURN(std::string to, StringField(step, "content", ""));
    if (!from.is_text) return Unsupported("decoder", step);
    out.replacements.emplace_back(std::move(from.text), std::move(to));
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(std::string mark, ParseReplacement(step));
    ASSIGN_OR_RETURN(const PreTokenizer::PrependScheme scheme,
                     ParsePrependScheme(step));
    out.replacements.emplace_back(std::move(mark), " ");
    out.strips_leading_space = scheme != PreTokenizer::PrependScheme::kNever;
  } else if (type == "Strip") {
    return ParseStripDecoder(step, out);
  } else if (type != "Fuse") {
    return Unsupported("decoder", step);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseNormalizer(const Json* section, Normalizer& out) {
  ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                   StepsOf(section, "normalizers"));
  for (const Json* step : steps) {
    RETURN_IF_ERROR(ParseNormalizerStep(*step, out));
  }
  return absl::OkStatus();
}

absl::StatusOr<PreTokenizerSection> ParsePreTokenizer(const Json* section) {
  ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                   StepsOf(section, "pretokenizers"));
  PreTokenizerSection out;
  for (const Json* step : steps) {
    RETURN_IF_ERROR(ParsePreTokenizerStep(*step, out));
  }
  return out;
}

absl::StatusOr<DecoderSection> ParseDecoder(const Json* section,
                                            bool byte_level_model) {
  DecoderSection out;
  out.byte_level = byte_level_model;
  ASSIGN_OR_RETURN(const std::vector<const Json*> steps,
                   StepsOf(section, "decoders"));
  if (steps.empty() && !byte_level_model) {
    return absl::InvalidArgumentError("tokenizer.json has no decoder");
  }
  for (const Json* step : steps) {
    RETURN_IF_ERROR(ParseDecoderStep(*step, out));
  }
  return out;
}

std::string DecodeToken(const DecoderSection& decoder,
                        absl::string_view token) {
  if (decoder.byte_level) {
    if (std::optional<std::string> bytes = BytesOfAlphabet(token)) {
      return *std::move(bytes);
    }
    return absl::StrCat(token);
  }
  if (decoder.byte_fallback) {
    if (const std::optional<uint8_t> byte = ByteOfFallbackToken(token)) {
      return std::string(1, static_cast<char>(*byte));
    }
  }
  std::string text(token);
  for (const auto& [from, to] : decoder.replacements) {
    text = absl::StrReplaceAll(text, {{from, to}});
  }
  return text;
}

}  // namespace sluice::router
