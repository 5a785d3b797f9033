#include "router/text/template_nodes.h"

#include <cstdint>
#include <memory>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "router/text/template_json.h"
#include "router/text/template_program.h"

namespace sluice::router {
namespace {

using jinja::context;
using jinja::statement;
using jinja::statement_ptr;
using jinja::statements;
using jinja::value;

// What is left of the limits of the rendering on this thread.
struct Budget {
  int64_t steps = 0;
  size_t output_bytes = 0;
  size_t value_bytes = 0;
  size_t stack_bytes = 0;
  const char* stack_base = nullptr;
};
thread_local std::unique_ptr<Budget> budget;

[[noreturn]] void Exceed(absl::string_view what) {
  throw std::runtime_error(
      absl::StrCat("the template exceeds its limit of ", what));
}

void ChargeSteps(int64_t steps) {
  if (steps > budget->steps) Exceed("steps");
  budget->steps -= steps;
}

void CheckStack() {
  const char* here = static_cast<const char*>(__builtin_frame_address(0));
  const int64_t used = budget->stack_base - here;
  if (static_cast<size_t>(used < 0 ? -used : used) > budget->stack_bytes) {
    Exceed("nested calls");
  }
}

void CheckSize(const value& result) {
  if (jinja::is_val<jinja::value_string>(result)) {
    if (result->as_string().length() > budget->value_bytes) {
      Exceed("bytes in a string");
    }
  } else if (jinja::is_val<jinja::value_array>(result)) {
    ChargeSteps(static_cast<int64_t>(result->as_array().size()));
  }
}

// Children that any list of arguments has.
void VisitArgs(statements& args, ChildVisitor visit) {
  for (statement_ptr& arg : args) visit(arg, NodeRole::kExpression);
}

// Declared parameters: names, or names with a default value.
void VisitParameters(statements& parameters, ChildVisitor visit) {
  for (statement_ptr& parameter : parameters) {
    visit(parameter, dynamic_cast<jinja::identifier*>(parameter.get())
                         ? NodeRole::kName
                         : NodeRole::kFixed);
  }
}

void VisitBody(statements& body, ChildVisitor visit) {
  for (statement_ptr& child : body) visit(child, NodeRole::kStatement);
}

// The name of a filter or test, or a call of one.
void VisitFilter(statement_ptr& filter, ChildVisitor visit) {
  if (auto* call = dynamic_cast<jinja::call_expression*>(filter.get())) {
    visit(call->callee, NodeRole::kName);
    VisitArgs(call->args, visit);
  } else {
    visit(filter, NodeRole::kName);
  }
}

bool VisitStatement(statement& node, ChildVisitor visit) {
  if (auto* program = dynamic_cast<jinja::program*>(&node)) {
    VisitBody(program->body, visit);
  } else if (auto* branch = dynamic_cast<jinja::if_statement*>(&node)) {
    visit(branch->test, NodeRole::kExpression);
    VisitBody(branch->body, visit);
    VisitBody(branch->alternate, visit);
  } else if (auto* loop = dynamic_cast<jinja::for_statement*>(&node)) {
    visit(loop->loopvar, NodeRole::kTarget);
    visit(loop->iterable, NodeRole::kIterable);
    VisitBody(loop->body, visit);
    VisitBody(loop->default_block, visit);
  } else if (auto* set = dynamic_cast<jinja::set_statement*>(&node)) {
    visit(set->assignee, NodeRole::kTarget);
    visit(set->val, NodeRole::kExpression);
    VisitBody(set->body, visit);
  } else if (auto* macro = dynamic_cast<jinja::macro_statement*>(&node)) {
    visit(macro->name, NodeRole::kName);
    VisitParameters(macro->args, visit);
    VisitBody(macro->body, visit);
  } else if (auto* call = dynamic_cast<jinja::call_statement*>(&node)) {
    visit(call->call, NodeRole::kFixed);
    VisitParameters(call->caller_args, visit);
    VisitBody(call->body, visit);
  } else if (auto* filter = dynamic_cast<jinja::filter_statement*>(&node)) {
    VisitFilter(filter->filter, visit);
    VisitBody(filter->body, visit);
  } else {
    return false;
  }
  return true;
}

bool VisitOperator(statement& node, ChildVisitor visit) {
  constexpr NodeRole kExpression = NodeRole::kExpression;
  if (auto* binary = dynamic_cast<jinja::binary_expression*>(&node)) {
    visit(binary->left, kExpression);
    visit(binary->right, kExpression);
  } else if (auto* filter = dynamic_cast<jinja::filter_expression*>(&node)) {
    visit(filter->operand, kExpression);
    VisitFilter(filter->filter, visit);
  } else if (auto* test = dynamic_cast<jinja::test_expression*>(&node)) {
    visit(test->operand, kExpression);
    VisitFilter(test->test, visit);
  } else if (auto* unary = dynamic_cast<jinja::unary_expression*>(&node)) {
    visit(unary->argument, kExpression);
  } else if (auto* ternary = dynamic_cast<jinja::ternary_expression*>(&node)) {
    visit(ternary->condition, kExpression);
    visit(ternary->true_expr, kExpression);
    visit(ternary->false_expr, kExpression);
  } else if (auto* select = dynamic_cast<jinja::select_expression*>(&node)) {
    visit(select->lhs, kExpression);
    visit(select->test, kExpression);
  } else if (auto* call = dynamic_cast<jinja::call_expression*>(&node)) {
    visit(call->callee, kExpression);
    VisitArgs(call->args, visit);
  } else {
    return false;
  }
  return true;
}

void VisitOther(statement& node, ChildVisitor visit) {
  constexpr NodeRole kExpression = NodeRole::kExpression;
  if (auto* member = dynamic_cast<jinja::member_expression*>(&node)) {
    visit(member->object, kExpression);
    const bool is_slice = dynamic_cast<jinja::slice_expression*>(
                              member->property.get()) != nullptr;
    visit(member->property, is_slice           ? NodeRole::kFixed
                            : member->computed ? kExpression
                                               : NodeRole::kName);
  } else if (auto* slice = dynamic_cast<jinja::slice_expression*>(&node)) {
    visit(slice->start_expr, kExpression);
    visit(slice->stop_expr, kExpression);
    visit(slice->step_expr, kExpression);
  } else if (auto* kwarg =
                 dynamic_cast<jinja::keyword_argument_expression*>(&node)) {
    visit(kwarg->key, NodeRole::kName);
    visit(kwarg->val, kExpression);
  } else if (auto* spread = dynamic_cast<jinja::spread_expression*>(&node)) {
    visit(spread->argument, kExpression);
  } else if (auto* array = dynamic_cast<jinja::array_literal*>(&node)) {
    VisitArgs(array->val, visit);
  } else if (auto* tuple = dynamic_cast<jinja::tuple_literal*>(&node)) {
    VisitArgs(tuple->val, visit);
  } else if (auto* object = dynamic_cast<jinja::object_literal*>(&node)) {
    for (auto& entry : object->val) {
      visit(entry.first, kExpression);
      visit(entry.second, kExpression);
    }
  }
}

// A statement of some body: counts it and its output.
struct MeteredStatement final : statement {
  explicit MeteredStatement(statement_ptr wrapped) : inner(std::move(wrapped)) {
    pos = inner->pos;
  }
  std::string type() const override { return inner->type(); }
  value execute_impl(context& ctx) const override {
    ChargeSteps(1);
    CheckStack();
    value result = inner->execute(ctx);
    if (jinja::is_val<jinja::value_string>(result)) {
      const size_t bytes = result->as_string().length();
      if (bytes > budget->output_bytes) Exceed("bytes of output");
      budget->output_bytes -= bytes;
    }
    return result;
  }
  statement_ptr inner;
};

// An expression whose value may be large.
struct CheckedExpression final : jinja::expression {
  explicit CheckedExpression(statement_ptr wrapped)
      : inner(std::move(wrapped)) {
    pos = inner->pos;
  }
  std::string type() const override { return inner->type(); }
  value execute_impl(context& ctx) const override {
    CheckStack();
    value result = inner->execute(ctx);
    CheckSize(result);
    return result;
  }
  statement_ptr inner;
};

// What a loop runs over.
struct MeteredIterable final : jinja::expression {
  explicit MeteredIterable(statement_ptr wrapped) : inner(std::move(wrapped)) {
    pos = inner->pos;
  }
  std::string type() const override { return inner->type(); }
  value execute_impl(context& ctx) const override {
    value items = inner->execute(ctx);
    if (jinja::is_val<jinja::value_array>(items)) {
      ChargeSteps(static_cast<int64_t>(items->as_array().size()));
    } else if (jinja::is_val<jinja::value_object>(items)) {
      ChargeSteps(static_cast<int64_t>(items->as_ordered_object().size()));
    }
    return items;
  }
  statement_ptr inner;
};

// An expression whose value is already known.
struct KnownValue final : jinja::expression {
  explicit KnownValue(value v) : known(std::move(v)) { pos = 0; }
  value execute_impl(context&) const override { return known; }
  value known;
};

// `left * right`, which repeats strings.
struct CheckedProduct final : jinja::expression {
  explicit CheckedProduct(statement_ptr product) : inner(std::move(product)) {
    pos = inner->pos;
  }
  std::string type() const override { return inner->type(); }
  value execute_impl(context& ctx) const override {
    const auto& product = static_cast<const jinja::binary_expression&>(*inner);
    const value left = product.left->execute(ctx);
    const value right = product.right->execute(ctx);
    CheckRepeat(left, right);
    CheckRepeat(right, left);
    const jinja::binary_expression known(product.op,
                                         std::make_unique<KnownValue>(left),
                                         std::make_unique<KnownValue>(right));
    return known.execute_impl(ctx);
  }
  static void CheckRepeat(const value& text, const value& count) {
    if (!jinja::is_val<jinja::value_string>(text) ||
        !jinja::is_val<jinja::value_int>(count) || count->as_int() <= 0) {
      return;
    }
    const auto times = static_cast<uint64_t>(count->as_int());
    // Each repetition costs memory even if it is empty.
    if (times > budget->value_bytes / (text->as_string().length() + 1)) {
      Exceed("bytes in a string");
    }
  }
  statement_ptr inner;
};

// Lets go of everything the containers hold: nothing else frees a cycle.
void Empty(const std::vector<value>& containers) {
  for (const value& container : containers) {
    container->val_arr.clear();
    container->val_obj.clear();
    if (jinja::is_val<jinja::value_object>(container)) {
      static_cast<jinja::value_object_t&>(*container).unordered.clear();
    }
  }
}

// Throws if `root` contains itself: printing it would never end. Whatever is
// thrown, limits too, takes the path apart: a cycle's values own each other.
void CheckAcyclic(const value& root) {
  std::set<const jinja::value_t*> done, on_path;
  std::vector<value> path;
  const auto visit = [&](const auto& self, const value& node) -> void {
    const bool is_array = jinja::is_val<jinja::value_array>(node);
    if (!is_array && !jinja::is_val<jinja::value_object>(node)) return;
    if (on_path.count(node.get()) != 0) {
      throw std::runtime_error("a value would contain itself");
    }
    if (!done.insert(node.get()).second) return;
    ChargeSteps(1);
    CheckStack();
    on_path.insert(node.get());
    path.push_back(node);
    if (is_array) {
      for (const value& item : node->as_array()) self(self, item);
    } else {
      for (const auto& entry : node->as_ordered_object()) {
        self(self, entry.second);
      }
    }
    path.pop_back();
    on_path.erase(node.get());
  };
  try {
    visit(visit, root);
  } catch (const std::exception&) {
    Empty(path);
    throw;
  }
}

bool IsContainer(const value& v) {
  return jinja::is_val<jinja::value_array>(v) ||
         jinja::is_val<jinja::value_object>(v);
}

// `{% set a.b = ... %}`
struct CheckedMemberSet final : statement {
  explicit CheckedMemberSet(statement_ptr set) : inner(std::move(set)) {
    pos = inner->pos;
  }
  std::string type() const override { return inner->type(); }
  value execute_impl(context& ctx) const override {
    value result = inner->execute(ctx);
    const auto& set = static_cast<const jinja::set_statement&>(*inner);
    if (IsContainer(static_cast<const jinja::member_expression&>(*set.assignee)
                        .execute(ctx))) {
      CheckAcyclic(static_cast<const jinja::member_expression&>(*set.assignee)
                       .object->execute(ctx));
    }
    return result;
  }
  statement_ptr inner;
};

// `a.append(b)`
struct CheckedAppend final : jinja::expression {
  explicit CheckedAppend(statement_ptr call) : inner(std::move(call)) {
    pos = inner->pos;
  }
  std::string type() const override { return inner->type(); }
  value execute_impl(context& ctx) const override {
    value result = inner->execute(ctx);
    const auto& call = static_cast<const jinja::call_expression&>(*inner);
    const auto& callee =
        static_cast<const jinja::member_expression&>(*call.callee);
    const value list = callee.object->execute(ctx);
    if (jinja::is_val<jinja::value_array>(list) && !list->as_array().empty() &&
        IsContainer(list->as_array().back())) {
      CheckAcyclic(list);
    }
    return result;
  }
  statement_ptr inner;
};

// `operand | tojson(...)`
struct ToJson final : jinja::expression {
  ToJson(statement_ptr value_expression, statements arguments)
      : operand(std::move(value_expression)), args(std::move(arguments)) {
    pos = operand->pos;
  }
  std::string type() const override { return "FilterExpression"; }
  value execute_impl(context& ctx) const override {
    const value input = operand->execute(ctx);
    JsonStyle style;
    value separators;
    int position = 0;
    for (const statement_ptr& arg : args) {
      value given = arg->execute(ctx);
      std::string name;
      if (auto* kwarg = jinja::cast_val<jinja::value_kwarg>(given)) {
        name = kwarg->key;
        given = value(kwarg->val);
      } else {
        name = PositionalName(position++);
      }
      if (name == "separators") {
        separators = given;
      } else {
        Apply(name, given, style);
      }
    }
    ApplySeparators(separators, style);
    return jinja::mk_val<jinja::value_string>(
        JsonFromValue(input, style, budget->value_bytes));
  }

  static std::string PositionalName(int position) {
    constexpr const char* kNames[] = {"ensure_ascii", "indent", "separators",
                                      "sort_keys"};
    if (position >= 4) throw std::runtime_error("tojson: too many arguments");
    return kNames[position];
  }
  static void Apply(const std::string& name, const value& given,
                    JsonStyle& style) {
    if (name == "ensure_ascii") {
      style.ensure_ascii = given->as_bool();
    } else if (name == "sort_keys") {
      style.sort_keys = given->as_bool();
    } else if (name != "indent") {
      throw std::runtime_error(absl::StrCat("tojson: unknown argument ", name));
    } else if (jinja::is_val<jinja::value_int>(given)) {
      if (given->as_int() < 0 || given->as_int() > 64) {
        throw std::runtime_error("tojson: indent must be in [0, 64]");
      }
      style.indent_spaces = static_cast<int>(given->as_int());
    }
  }
  static void ApplySeparators(const value& separators, JsonStyle& style) {
    if (style.indent_spaces >= 0) style.item_separator = ",";
    if (separators == nullptr ||
        !jinja::is_val<jinja::value_array>(separators)) {
      return;
    }
    const std::vector<value>& pair = separators->as_array();
    if (pair.size() != 2) {
      throw std::runtime_error("tojson: separators must be a pair");
    }
    style.item_separator = pair[0]->as_string().str();
    style.key_separator = pair[1]->as_string().str();
  }

  statement_ptr operand;
  statements args;
};

bool IsNamed(const statement_ptr& node, absl::string_view name) {
  const auto* id = dynamic_cast<const jinja::identifier*>(node.get());
  return id != nullptr && id->val == name;
}

// The replacement of a tojson filter, or null for any other expression.
statement_ptr MakeToJson(jinja::filter_expression& filter) {
  if (IsNamed(filter.filter, "tojson")) {
    return std::make_unique<ToJson>(std::move(filter.operand), statements());
  }
  auto* call = dynamic_cast<jinja::call_expression*>(filter.filter.get());
  if (call == nullptr || !IsNamed(call->callee, "tojson")) return nullptr;
  return std::make_unique<ToJson>(std::move(filter.operand),
                                  std::move(call->args));
}

template <typename Wrapper>
void Wrap(statement_ptr& node) {
  node = std::make_unique<Wrapper>(std::move(node));
}

void WeaveExpression(statement_ptr& node) {
  if (auto* binary = dynamic_cast<jinja::binary_expression*>(node.get())) {
    if (binary->op.value == "*") {
      Wrap<CheckedProduct>(node);
    } else if (binary->op.value == "+" || binary->op.value == "~") {
      Wrap<CheckedExpression>(node);
    }
  } else if (auto* filter =
                 dynamic_cast<jinja::filter_expression*>(node.get())) {
    if (statement_ptr json = MakeToJson(*filter)) node = std::move(json);
    Wrap<CheckedExpression>(node);
  } else if (auto* call = dynamic_cast<jinja::call_expression*>(node.get())) {
    const auto* member =
        dynamic_cast<const jinja::member_expression*>(call->callee.get());
    if (member != nullptr && !member->computed &&
        IsNamed(member->property, "append")) {
      Wrap<CheckedAppend>(node);
    }
    Wrap<CheckedExpression>(node);
  }
}

void WeaveStatement(statement_ptr& node) {
  WeaveExpression(node);  // {{ expressions }} stand among statements
  const auto* set = dynamic_cast<const jinja::set_statement*>(node.get());
  if (set != nullptr && dynamic_cast<const jinja::member_expression*>(
                            set->assignee.get()) != nullptr) {
    Wrap<CheckedMemberSet>(node);
  }
  Wrap<MeteredStatement>(node);
}

void WeaveIterable(statement_ptr& node) {
  if (auto* select = dynamic_cast<jinja::select_expression*>(node.get())) {
    Wrap<MeteredIterable>(select->lhs);
  } else {
    Wrap<MeteredIterable>(node);
  }
}

}  // namespace

void ForEachChild(statement& node, ChildVisitor visit) {
  if (!VisitStatement(node, visit) && !VisitOperator(node, visit)) {
    VisitOther(node, visit);
  }
}

std::string MacroName(const statement& node) {
  const auto* macro = dynamic_cast<const jinja::macro_statement*>(&node);
  if (macro == nullptr) return "";
  const auto* name = dynamic_cast<const jinja::identifier*>(macro->name.get());
  return name == nullptr ? "" : name->val;
}

void WeaveLimitChecks(statement& root) {
  ForEachChild(root, [](statement_ptr& child, NodeRole role) {
    if (child == nullptr) return;
    WeaveLimitChecks(*child);
    if (role == NodeRole::kStatement) {
      WeaveStatement(child);
    } else if (role == NodeRole::kExpression) {
      WeaveExpression(child);
    } else if (role == NodeRole::kIterable) {
      WeaveIterable(child);
    }
  });
}

RenderScope::RenderScope(const RenderLimits& limits) {
  SLUICE_CHECK(budget == nullptr);
  budget = std::make_unique<Budget>();
  budget->steps = limits.max_steps;
  budget->output_bytes = limits.max_output_bytes;
  budget->value_bytes = limits.max_value_bytes;
  budget->stack_bytes = limits.max_stack_bytes;
  budget->stack_base = static_cast<const char*>(__builtin_frame_address(0));
}

RenderScope::~RenderScope() { budget.reset(); }

value LimitedRange(const jinja::func_args& args) {
  args.ensure_count(1, 3);
  args.ensure_vals<jinja::value_int, jinja::value_int, jinja::value_int>(
      true, false, false);
  int64_t start = 0, stop = args.get_pos(0)->as_int(), step = 1;
  if (args.count() > 1) {
    start = stop;
    stop = args.get_pos(1)->as_int();
  }
  if (args.count() > 2) step = args.get_pos(2)->as_int();
  constexpr int64_t kMax = int64_t{1} << 40;
  for (int64_t bound : {start, stop, step}) {
    if (bound > kMax || bound < -kMax) Exceed("range()");
  }
  if (step == 0) {
    throw std::runtime_error("range() step argument must not be zero");
  }
  auto out = jinja::mk_val<jinja::value_array>();
  const int64_t span = step > 0 ? stop - start : start - stop;
  const int64_t stride = step > 0 ? step : -step;
  const int64_t count = span <= 0 ? 0 : (span + stride - 1) / stride;
  ChargeSteps(count);
  for (int64_t i = 0; i < count; ++i) {
    out->push_back(jinja::mk_val<jinja::value_int>(start + i * step));
  }
  return out;
}

}  // namespace sluice::router
