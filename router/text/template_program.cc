#include "router/text/template_program.h"

#include <algorithm>
#include <exception>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "jinja/lexer.h"
#include "jinja/parser.h"
#include "router/text/template_nodes.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

constexpr size_t kMaxSourceBytes = 256 << 10;
constexpr size_t kMaxTagTokens = 1024;
constexpr int kMaxBrackets = 64;
constexpr int kMaxBlocks = 128;

absl::Status Bad(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("chat template: ", why));
}

// The engine parses by recursion, so nesting is bounded before.
class NestingCheck {
 public:
  absl::Status Run(const std::vector<jinja::token>& tokens) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const jinja::token& token = tokens[i];
      switch (token.t) {
        case jinja::token::text:
        case jinja::token::comment:
          tag_tokens_ = 0;
          brackets_ = 0;
          continue;
        case jinja::token::open_statement:
          tag_tokens_ = 0;
          brackets_ = 0;
          if (i + 1 < tokens.size()) EnterTag(tokens, i + 1);
          break;
        case jinja::token::open_expression:
          tag_tokens_ = 0;
          brackets_ = 0;
          break;
        case jinja::token::open_paren:
        case jinja::token::open_square_bracket:
        case jinja::token::open_curly_bracket:
          ++brackets_;
          break;
        case jinja::token::close_paren:
        case jinja::token::close_square_bracket:
        case jinja::token::close_curly_bracket:
          --brackets_;
          break;
        default:
          break;
      }
      if (++tag_tokens_ > kMaxTagTokens) return Bad("a tag is too long");
      if (brackets_ > kMaxBrackets) return Bad("brackets nested too deeply");
      if (blocks_ > kMaxBlocks) return Bad("blocks nested too deeply");
    }
    return absl::OkStatus();
  }

 private:
  // Every elif nests one level deeper, and its block's end closes them all.
  void EnterTag(const std::vector<jinja::token>& tokens, size_t name_index) {
    const std::string& name = tokens[name_index].value;
    if (name == "if" || name == "for" || name == "macro" || name == "call" ||
        name == "filter" || (name == "set" && !HasEquals(tokens, name_index))) {
      open_.push_back(1);
      ++blocks_;
    } else if (name == "elif" && !open_.empty()) {
      ++open_.back();
      ++blocks_;
    } else if (absl::StartsWith(name, "end") && !open_.empty()) {
      blocks_ -= open_.back();
      open_.pop_back();
    }
  }
  static bool HasEquals(const std::vector<jinja::token>& tokens, size_t at) {
    for (; at < tokens.size(); ++at) {
      if (tokens[at].t == jinja::token::equals) return true;
      if (tokens[at].t == jinja::token::close_statement) return false;
    }
    return false;
  }

  size_t tag_tokens_ = 0;
  int brackets_ = 0;
  int blocks_ = 0;
  std::vector<int> open_;  // levels of each open block
};

using MacroCalls = std::map<std::string, std::set<std::string>>;

// A macro on a cycle of calls, or an empty string.
std::string FindCycle(const MacroCalls& calls) {
  for (const auto& [start, first] : calls) {
    std::vector<std::string> todo(first.begin(), first.end());
    std::set<std::string> seen;
    while (!todo.empty()) {
      const std::string name = std::move(todo.back());
      todo.pop_back();
      if (name == start) return start;
      const auto it = calls.find(name);
      if (it == calls.end() || !seen.insert(name).second) continue;
      todo.insert(todo.end(), it->second.begin(), it->second.end());
    }
  }
  return "";
}

// Collects what a parsed template reads, and which macros it defines.
class Survey {
 public:
  void Visit(jinja::statement& node) {
    ForEachChild(node, [&](jinja::statement_ptr& child, NodeRole role) {
      if (child == nullptr || role == NodeRole::kName) return;
      if (const auto* id = dynamic_cast<jinja::identifier*>(child.get())) {
        if (role == NodeRole::kTarget) return;
        variables.insert(id->val);
        for (const std::string& macro : inside_) calls[macro].insert(id->val);
        return;
      }
      const std::string macro = MacroName(*child);
      if (!macro.empty()) {
        calls[macro];
        inside_.push_back(macro);
      }
      Visit(*child);
      if (!macro.empty()) inside_.pop_back();
    });
  }

  std::set<std::string> variables;
  MacroCalls calls;  // macro -> names used inside it

 private:
  std::vector<std::string> inside_;  // macros around the current node
};

absl::StatusOr<jinja::program> ParseSource(const std::string& source) {
  try {
    const jinja::lexer_result lexed = jinja::lexer().tokenize(source);
    RETURN_IF_ERROR(NestingCheck().Run(lexed.tokens));
    return jinja::parse_from_tokens(lexed);
  } catch (const std::exception& e) {
    return Bad(ReadableTemplateError(e.what()));
  }
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TemplateProgram>> TemplateProgram::Parse(
    absl::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return Bad(absl::StrCat("source of ", source.size(),
                            " bytes is longer than ", kMaxSourceBytes));
  }
  std::shared_ptr<TemplateProgram> out(new TemplateProgram);
  // Here in linear time; the engine's own way is quadratic.
  out->source_ = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  ASSIGN_OR_RETURN(out->program_, ParseSource(out->source_));

  Survey survey;
  survey.Visit(out->program_);
  if (const std::string macro = FindCycle(survey.calls); !macro.empty()) {
    return Bad(absl::StrCat("macro ", macro, " can call itself"));
  }
  out->variables_ = std::move(survey.variables);
  WeaveLimitChecks(out->program_);
  return std::shared_ptr<const TemplateProgram>(std::move(out));
}

std::string TemplateProgram::Run(jinja::context& ctx,
                                 const RenderLimits& limits) const {
  const RenderScope scope(limits);
  jinja::runtime runtime(ctx);
  const jinja::value results = runtime.execute(program_);
  return jinja::render_string_parts(
      jinja::runtime::gather_string_parts(results));
}

std::string ReadableTemplateError(absl::string_view what) {
  constexpr absl::string_view kMark = "Error: ";
  if (const size_t at = what.rfind(kMark); at != absl::string_view::npos) {
    what.remove_prefix(at + kMark.size());
  }
  constexpr absl::string_view kRaised = "Jinja Exception: ";
  if (absl::StartsWith(what, kRaised)) what.remove_prefix(kRaised.size());
  // The lexer and parser append a drawing of the place.
  what = what.substr(0, what.find("\n..."));
  return absl::StrReplaceAll(Utf8Excerpt(absl::StripAsciiWhitespace(what), 500),
                             {{"\n", " "}});
}

}  // namespace sluice::router
