#ifndef ROUTER_TEXT_NORMALIZER_H_
#define ROUTER_TEXT_NORMALIZER_H_

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "router/text/pattern.h"

namespace sluice::router {

// The text rewriting that precedes splitting, as a list of steps in order.
// Immutable once built, then thread-safe.
class Normalizer {
 public:
  enum class Form { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kStripAccents };

  void AddForm(Form form) { steps_.emplace_back(form); }
  void AddPrepend(std::string text) {
    steps_.emplace_back(Prepend{std::move(text)});
  }
  // `from` must not be empty.
  void AddReplaceText(std::string from, std::string to) {
    steps_.emplace_back(ReplaceText{std::move(from), std::move(to)});
  }
  void AddReplacePattern(Pattern from, std::string to) {
    steps_.emplace_back(ReplacePattern{std::move(from), std::move(to)});
  }
  // Removes white space at the chosen ends.
  void AddStrip(bool left, bool right) {
    steps_.emplace_back(Strip{left, right});
  }
  bool empty() const { return steps_.empty(); }

  // `text` is valid UTF-8, and so is the result. Empty text stays empty.
  // kInvalidArgument: a pattern exceeded its step limit.
  absl::StatusOr<std::string> Apply(absl::string_view text) const;

 private:
  struct Prepend {
    std::string text;
  };
  struct ReplaceText {
    std::string from, to;
  };
  struct ReplacePattern {
    Pattern from;
    std::string to;
  };
  struct Strip {
    bool left, right;
  };
  using Step = std::variant<Form, Prepend, ReplaceText, ReplacePattern, Strip>;

  static absl::StatusOr<std::string> ApplyStep(const Step& step,
                                               const std::string& text);

  std::vector<Step> steps_;
};

// True for Unicode's White_Space.
bool IsWhiteSpace(uint32_t code_point);
// True for letters, marks, decimal digits and connectors (a regex's \w).
bool IsWordChar(uint32_t code_point);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_NORMALIZER_H_
