#ifndef ROUTER_TEXT_TEMPLATE_PROGRAM_H_
#define ROUTER_TEXT_TEMPLATE_PROGRAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "jinja/runtime.h"

namespace sluice::router {

// Limits of one rendering; the engine has none of its own.
struct RenderLimits {
  int64_t max_steps = 512 << 10;       // statements run, items looped over
  size_t max_value_bytes = 8 << 20;    // of one string; and the output
  size_t max_output_bytes = 64 << 20;  // of all statements, nested counted
  size_t max_stack_bytes = 1 << 20;
};

// A parsed template with limit checks woven into it. Immutable, thread-safe.
class TemplateProgram {
 public:
  // kInvalidArgument: over 256 KiB, a syntax error, nested too deeply, or
  // macros that can call themselves.
  static absl::StatusOr<std::shared_ptr<const TemplateProgram>> Parse(
      absl::string_view source);

  // Names of variables that occur anywhere other than as a target.
  const std::set<std::string>& variables() const { return variables_; }

  // Runs in `ctx`, made from the normalised source(). Throws what the engine
  // throws; std::runtime_error when a limit is exceeded.
  std::string Run(jinja::context& ctx, const RenderLimits& limits) const;

  const std::string& source() const { return source_; }

 private:
  TemplateProgram() = default;

  std::string source_;
  jinja::program program_;
  std::set<std::string> variables_;
};

// The part of an engine error that says what went wrong, on one line.
std::string ReadableTemplateError(absl::string_view what);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TEMPLATE_PROGRAM_H_
