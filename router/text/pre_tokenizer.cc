#include "router/text/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

using Piece = PieceList::Piece;

constexpr absl::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)"
    R"(|\s+(?!\S)|\s+)";
constexpr absl::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr absl::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct NamedPreTokenizer {
  absl::string_view names;  // separated by spaces
  std::vector<absl::string_view> patterns;
};

const std::vector<NamedPreTokenizer>& NamedPreTokenizers() {
  static const auto* table = new std::vector<NamedPreTokenizer>{
      {"gpt-2 gpt2", {kGpt2}},
      {"smollm", {R"(\p{N})", kGpt2}},
      {"llama-bpe llama3 llama-v3", {kLlama3}},
      {"qwen2 deepseek-r1-qwen", {kQwen2}},
      {"default",
       {R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
  };
  return *table;
}

// Alternating matches and gaps of one piece.
struct Range {
  uint32_t begin, end;
  bool is_match;
};

absl::Status FindRanges(const PreTokenizer::Split& split,
                        absl::string_view text, Piece piece,
                        std::vector<Range>& ranges) {
  ranges.clear();
  const absl::string_view subject =
      text.substr(piece.begin, piece.end - piece.begin);
  const auto push = [&](size_t begin, size_t end, bool is_match) {
    if (begin == end) return;
    ranges.push_back({static_cast<uint32_t>(piece.begin + begin),
                      static_cast<uint32_t>(piece.begin + end),
                      is_match != split.invert});
  };
  for (size_t at = 0; at < subject.size();) {
    ASSIGN_OR_RETURN(const Pattern::Match match,
                     split.pattern.Find(subject, at));
    push(at, match.begin, false);
    push(match.begin, match.end, true);
    at = match.begin == match.end ? subject.size() : match.end;
  }
  return absl::OkStatus();
}

void MergeWithPrevious(const std::vector<Range>& ranges,
                       std::vector<Piece>& out) {
  const size_t first = out.size();
  bool previous_match = false;
  for (const Range& range : ranges) {
    if (range.is_match && !previous_match && out.size() > first) {
      out.back().end = range.end;
    } else {
      out.push_back({range.begin, range.end});
    }
    previous_match = range.is_match;
  }
}

void MergeWithNext(const std::vector<Range>& ranges, std::vector<Piece>& out) {
  const size_t first = out.size();
  bool previous_match = false;
  for (auto range = ranges.rbegin(); range != ranges.rend(); ++range) {
    if (range->is_match && !previous_match && out.size() > first) {
      out.back().begin = range->begin;
    } else {
      out.push_back({range->begin, range->end});
    }
    previous_match = range->is_match;
  }
  std::reverse(out.begin() + static_cast<ptrdiff_t>(first), out.end());
}

void MergeContiguous(const std::vector<Range>& ranges,
                     std::vector<Piece>& out) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    if (i > 0 && ranges[i].is_match == ranges[i - 1].is_match) {
      out.back().end = ranges[i].end;
    } else {
      out.push_back({ranges[i].begin, ranges[i].end});
    }
  }
}

Pattern CompileOwn(absl::string_view expression) {
  absl::StatusOr<Pattern> pattern = Pattern::Compile(expression);
  SLUICE_CHECK(pattern.ok());
  return *std::move(pattern);
}

}  // namespace

void PieceList::Reset(absl::string_view text, bool at_start) {
  text_ = text;
  at_start_ = at_start;
  pieces_.clear();
  if (!text.empty()) {
    pieces_.push_back({0, static_cast<uint32_t>(text.size())});
  }
}

void PreTokenizer::Add(Step step) { steps_.push_back(std::move(step)); }

absl::Status PreTokenizer::AddNamed(absl::string_view name) {
  std::string known;
  for (const NamedPreTokenizer& entry : NamedPreTokenizers()) {
    absl::StrAppend(&known, known.empty() ? "" : " ", entry.names);
    if (name.empty() || absl::StrContains(name, ' ') ||
        !absl::StrContains(absl::StrCat(" ", entry.names, " "),
                           absl::StrCat(" ", name, " "))) {
      continue;
    }
    for (absl::string_view expression : entry.patterns) {
      Add(Split{CompileOwn(expression), Behavior::kIsolated, false});
    }
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("pre-tokenizer \"", Utf8Excerpt(name, 100),
                   "\" is not supported; known: ",
                   absl::StrReplaceAll(known, {{" ", ", "}})));
}

void PreTokenizer::AddGpt2() {
  Add(Split{CompileOwn(kGpt2), Behavior::kIsolated, false});
}

absl::Status PreTokenizer::RunSplit(const Split& split, PieceList& list) {
  std::vector<Piece>& out = list.next_;
  out.clear();
  std::vector<Range> ranges;
  for (const Piece piece : list.pieces_) {
    RETURN_IF_ERROR(FindRanges(split, list.text_, piece, ranges));
    switch (split.behavior) {
      case Behavior::kRemoved:
        for (const Range& range : ranges) {
          if (!range.is_match) out.push_back({range.begin, range.end});
        }
        break;
      case Behavior::kIsolated:
        for (const Range& range : ranges) {
          out.push_back({range.begin, range.end});
        }
        break;
      case Behavior::kMergedWithPrevious:
        MergeWithPrevious(ranges, out);
        break;
      case Behavior::kMergedWithNext:
        MergeWithNext(ranges, out);
        break;
      case Behavior::kContiguous:
        MergeContiguous(ranges, out);
        break;
    }
  }
  list.pieces_.swap(out);
  return absl::OkStatus();
}

void PreTokenizer::RunMetaspace(const Metaspace& step, PieceList& list) {
  std::string rewritten;
  std::vector<Piece>& out = list.next_;
  out.clear();
  const absl::string_view mark = step.replacement;
  for (size_t i = 0; i < list.pieces_.size(); ++i) {
    const size_t begin = rewritten.size();
    const std::string piece = absl::StrReplaceAll(list.Text(list.pieces_[i]),
                                                  {{" ", step.replacement}});
    const bool wanted = step.prepend == PrependScheme::kAlways ||
                        (step.prepend == PrependScheme::kFirst &&
                         list.at_start_ && list.pieces_[i].begin == 0);
    if (wanted && !absl::StartsWith(piece, mark)) {
      absl::StrAppend(&rewritten, mark);
    }
    rewritten += piece;
    size_t cut = begin;
    while (step.split) {  // every mark begins a piece
      const size_t next = absl::string_view(rewritten).find(mark, cut + 1);
      if (next == std::string::npos) break;
      out.push_back({static_cast<uint32_t>(cut), static_cast<uint32_t>(next)});
      cut = next;
    }
    out.push_back(
        {static_cast<uint32_t>(cut), static_cast<uint32_t>(rewritten.size())});
  }
  list.owned_ = std::move(rewritten);
  list.text_ = list.owned_;
  list.pieces_.swap(out);
}

void PreTokenizer::RunPrefixSpace(PieceList& list) {
  std::string rewritten;
  for (Piece& piece : list.pieces_) {
    const absl::string_view text = list.Text(piece);
    const auto begin = static_cast<uint32_t>(rewritten.size());
    absl::StrAppend(&rewritten, absl::StartsWith(text, " ") ? "" : " ", text);
    piece = {begin, static_cast<uint32_t>(rewritten.size())};
  }
  list.owned_ = std::move(rewritten);
  list.text_ = list.owned_;
}

absl::Status PreTokenizer::Run(PieceList& list) const {
  for (const Step& step : steps_) {
    if (const auto* split = std::get_if<Split>(&step)) {
      RETURN_IF_ERROR(RunSplit(*split, list));
    } else if (const auto* metaspace = std::get_if<Metaspace>(&step)) {
      RunMetaspace(*metaspace, list);
    } else {
      RunPrefixSpace(list);
    }
  }
  return absl::OkStatus();
}

std::string QuotePattern(absl::string_view text) {
  std::string out;
  for (char c : text) {
    if (absl::ascii_isascii(static_cast<unsigned char>(c)) &&
        absl::ascii_ispunct(static_cast<unsigned char>(c))) {
      out += '\\';
    }
    out += c;
  }
  return out;
}

}  // namespace sluice::router
