#ifndef ROUTER_TEXT_TEMPLATE_NODES_H_
#define ROUTER_TEXT_TEMPLATE_NODES_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "jinja/runtime.h"

namespace sluice::router {

struct RenderLimits;

// What a child is to its parent in the engine's syntax tree.
enum class NodeRole {
  kStatement,   // run for its output
  kExpression,  // run for its value
  kIterable,    // looped over
  kTarget,      // assigned to
  kName,        // a name, not a variable
  kFixed,       // the engine needs exactly this node type here
};

using ChildVisitor =
    absl::FunctionRef<void(jinja::statement_ptr& child, NodeRole role)>;

// Calls visit for every child pointer of `node` (some are null).
void ForEachChild(jinja::statement& node, ChildVisitor visit);

// The name `node` defines if it is a macro, else an empty string.
std::string MacroName(const jinja::statement& node);

// Replaces nodes by checking ones, which need a RenderScope to run: steps,
// output, sizes of strings and lists, stack depth, values that contain
// themselves; and `tojson` by one that writes what Python's json writes.
void WeaveLimitChecks(jinja::statement& root);

// Sets the limits for what this thread renders while it lives. Not nested.
class RenderScope {
 public:
  explicit RenderScope(const RenderLimits& limits);
  ~RenderScope();
  RenderScope(const RenderScope&) = delete;
  RenderScope& operator=(const RenderScope&) = delete;
};

// range(): charges its items before it makes them.
jinja::value LimitedRange(const jinja::func_args& args);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TEMPLATE_NODES_H_
