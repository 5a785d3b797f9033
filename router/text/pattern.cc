#include "router/text/pattern.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "router/text/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace sluice::router {
namespace {

constexpr size_t kMaxExpressionBytes = 64 << 10;
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kNestLimit = 250;
// Unicode's White_Space. PCRE2's own \s also takes U+180E.
constexpr absl::string_view kSpaces = "\\t-\\r\\x{85}\\p{Z}";

absl::Status BadPattern(absl::string_view expression, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "regular expression \"", Utf8Excerpt(expression, 200), "\": ", why));
}

// Rewrites the few constructs whose meaning differs between dialects.
absl::StatusOr<std::string> Translate(absl::string_view expression) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == '\\' && i + 1 < expression.size()) {
      const char next = expression[++i];
      if (next == 's') {
        absl::StrAppend(&out, in_class ? "" : "[", kSpaces,
                        in_class ? "" : "]");
      } else if (next == 'S' && !in_class) {
        absl::StrAppend(&out, "[^", kSpaces, "]");
      } else {
        out += c;
        out += next;
      }
      continue;
    }
    if (!in_class) {
      in_class = c == '[';
      out += c;
      if (in_class && expression.substr(i + 1, 1) == "^") {
        out += expression[++i];
      }
      continue;
    }
    if (c == ']') {
      in_class = false;
    } else if (c == '[' && expression.substr(i, 2) == "[:") {
      const size_t close = expression.find(":]", i);
      if (close == absl::string_view::npos) {
        return BadPattern(expression, "unclosed POSIX class");
      }
      absl::StrAppend(&out, expression.substr(i, close + 2 - i));
      i = close + 1;
      continue;
    } else if (c == '[' || expression.substr(i, 2) == "&&") {
      return BadPattern(expression, "nested classes are not supported");
    }
    out += c;
  }
  return out;
}

// What one thread needs to run any pattern.
struct MatchState {
  MatchState()
      : data(pcre2_match_data_create(1, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(64 << 10, 4 << 20, nullptr)) {
    SLUICE_CHECK(data != nullptr && context != nullptr && stack != nullptr);
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchState() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;

  pcre2_match_data* data;
  pcre2_match_context* context;
  pcre2_jit_stack* stack;
};

}  // namespace

struct Pattern::Code {
  ~Code() { pcre2_code_free(code); }
  pcre2_code* code = nullptr;
  bool has_jit = false;
  std::string expression;
};

Pattern::Pattern(std::shared_ptr<const Code> code) : code_(std::move(code)) {}

absl::StatusOr<Pattern> Pattern::Compile(absl::string_view expression) {
  if (expression.size() > kMaxExpressionBytes) {
    return BadPattern(expression, "longer than 65536 bytes");
  }
  if (FindInvalidUtf8(expression) != absl::string_view::npos) {
    return absl::InvalidArgumentError("regular expression is not UTF-8");
  }
  ASSIGN_OR_RETURN(const std::string translated, Translate(expression));

  std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)>
      context(pcre2_compile_context_create(nullptr),
              &pcre2_compile_context_free);
  pcre2_set_parens_nest_limit(context.get(), kNestLimit);
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  auto code = std::make_shared<Code>();
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                             translated.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                             &error, &error_offset, context.get());
  if (code->code == nullptr) {
    unsigned char message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    return BadPattern(expression, reinterpret_cast<const char*>(message));
  }
  code->has_jit = pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE) == 0;
  code->expression = absl::StrCat(expression);
  return Pattern(std::move(code));
}

absl::StatusOr<Pattern::Match> Pattern::Find(absl::string_view text,
                                             size_t from) const {
  thread_local MatchState state;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  while (from < text.size()) {
    const int rc =
        code_->has_jit
            ? pcre2_jit_match(code_->code, subject, text.size(), from,
                              PCRE2_NOTEMPTY, state.data, state.context)
            : pcre2_match(code_->code, subject, text.size(), from,
                          PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK, state.data,
                          state.context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return BadPattern(code_->expression,
                        absl::StrFormat("step limit exceeded (%d)", rc));
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(state.data);
    // \K in a look-ahead can put the start after the end.
    if (span[0] >= from && span[1] > span[0]) return Match{span[0], span[1]};
    from += Utf8SizeOfLead(static_cast<uint8_t>(text[from]));
  }
  return Match{text.size(), text.size()};
}

}  // namespace sluice::router
