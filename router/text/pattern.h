#ifndef ROUTER_TEXT_PATTERN_H_
#define ROUTER_TEXT_PATTERN_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::router {

// A Unicode regular expression in the dialect of published tokenizers
// (Oniguruma as used there), run by PCRE2's compiler. Immutable, thread-safe.
class Pattern {
 public:
  // kInvalidArgument naming the expression: it does not compile, is longer
  // than 64 KiB, or uses a class operator that PCRE2 reads differently.
  static absl::StatusOr<Pattern> Compile(absl::string_view expression);

  struct Match {
    size_t begin;  // byte offsets
    size_t end;    // begin: nothing found
  };

  // The first non-empty match at or after `from`; text before `from` is seen
  // by look-behind only. `text` must be valid UTF-8. kInvalidArgument: the
  // step limit was exceeded.
  absl::StatusOr<Match> Find(absl::string_view text, size_t from) const;

 private:
  struct Code;
  explicit Pattern(std::shared_ptr<const Code> code);
  std::shared_ptr<const Code> code_;
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_PATTERN_H_
