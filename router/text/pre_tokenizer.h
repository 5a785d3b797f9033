#ifndef ROUTER_TEXT_PRE_TOKENIZER_H_
#define ROUTER_TEXT_PRE_TOKENIZER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "router/text/pattern.h"

namespace sluice::router {

// A text cut into pieces. The text is borrowed until a step rewrites it.
class PieceList {
 public:
  struct Piece {
    uint32_t begin, end;  // bytes of text()
  };

  // One piece, the whole `text`, which must be shorter than 4 GiB and outlive
  // this object. `at_start`: nothing stands before it in the request's text.
  void Reset(absl::string_view text, bool at_start);

  absl::string_view text() const { return text_; }
  const std::vector<Piece>& pieces() const { return pieces_; }
  absl::string_view Text(Piece piece) const {
    return text_.substr(piece.begin, piece.end - piece.begin);
  }

 private:
  friend class PreTokenizer;
  absl::string_view text_;
  std::string owned_;  // backs text_ after a rewriting step
  bool at_start_ = true;
  std::vector<Piece> pieces_;
  std::vector<Piece> next_;  // scratch
};

// Cuts text into the pieces that a model tokenises one by one; a list of
// steps, each cutting the pieces of the one before. Immutable once built,
// then thread-safe.
class PreTokenizer {
 public:
  // What becomes of the matches of a pattern.
  enum class Behavior {
    kRemoved,
    kIsolated,
    kMergedWithPrevious,
    kMergedWithNext,
    kContiguous,
  };
  enum class PrependScheme { kAlways, kFirst, kNever };

  struct Split {
    Pattern pattern;
    Behavior behavior;
    bool invert;  // the gaps are the matches
  };
  struct Metaspace {
    std::string replacement;  // of a space
    PrependScheme prepend;
    bool split;
  };
  // Puts a space before every piece that does not begin with one.
  struct PrefixSpace {};
  using Step = std::variant<Split, Metaspace, PrefixSpace>;

  void Add(Step step);

  // Appends the steps of a GGUF `tokenizer.ggml.pre`. kInvalidArgument:
  // unknown name.
  absl::Status AddNamed(absl::string_view name);
  // Appends the split of GPT-2's byte-level pre-tokenizer.
  void AddGpt2();

  // kInvalidArgument: a pattern exceeded its step limit.
  absl::Status Run(PieceList& list) const;

 private:
  static absl::Status RunSplit(const Split& split, PieceList& list);
  static void RunMetaspace(const Metaspace& step, PieceList& list);
  static void RunPrefixSpace(PieceList& list);

  std::vector<Step> steps_;
};

// A regular expression that matches exactly `text`.
std::string QuotePattern(absl::string_view text);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_PRE_TOKENIZER_H_
