#ifndef ROUTER_TEXT_ADDED_TOKENS_H_
#define ROUTER_TEXT_ADDED_TOKENS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "router/text/byte_trie.h"

namespace sluice::router {

// A token that is found in the text before any other rule applies.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // found only where EncodeOptions asks for it
  bool single_word = false;  // not inside a longer word
  bool lstrip = false;       // swallows white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // looked for in normalised text
};

// Finds added tokens, leftmost first, the longest at one place. Immutable
// after construction, then thread-safe.
class AddedTokenFinder {
 public:
  AddedTokenFinder() = default;
  // Contents must not be empty.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  // Called with token == nullptr for the text between tokens (never empty).
  // `begin` is the position of `text` within the searched text.
  using Visitor = absl::FunctionRef<absl::Status(
      const AddedToken* token, absl::string_view text, size_t begin)>;

  // Visits the parts of `text` in order; stops at the first error.
  absl::Status Visit(absl::string_view text, bool with_special,
                     Visitor visitor) const;

 private:
  std::vector<AddedToken> tokens_;
  ByteTrie trie_;  // content -> index into tokens_
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_ADDED_TOKENS_H_
