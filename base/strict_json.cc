#include "base/strict_json.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <iterator>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

constexpr size_t kMaxWhatBytes = 160;

// A pointer into the text that tells how far the lexer has read.
struct CountedInput {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* next;
  size_t* consumed;  // bytes, borrowed

  const char& operator*() const { return *next; }
  CountedInput& operator++() {
    ++next;
    ++*consumed;
    return *this;
  }
  bool operator==(const CountedInput& other) const {
    return next == other.next;
  }
  bool operator!=(const CountedInput& other) const {
    return next != other.next;
  }
};

// Builds the value from the parser's events and keeps the first error. Member
// functions have the names and types the library asks for.
template <typename Json>
class Builder {
 public:
  Builder(JsonLimits limits, const size_t& consumed)
      : limits_(limits), consumed_(consumed) {}

  bool null() { return Add(Json(nullptr)) != nullptr; }
  bool boolean(bool value) { return Add(Json(value)) != nullptr; }
  bool number_integer(int64_t value) { return Add(Json(value)) != nullptr; }
  bool number_unsigned(uint64_t value) { return Add(Json(value)) != nullptr; }
  bool number_float(double value, const std::string&) {
    return Add(Json(value)) != nullptr;
  }
  bool string(std::string& value) {
    return Add(Json(std::move(value))) != nullptr;
  }
  bool binary(typename Json::binary_t&) { return Fail("binary value"); }
  bool start_object(size_t) { return Open(Json::object()); }
  bool start_array(size_t) { return Open(Json::array()); }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }
  bool key(std::string& name) {
    Frame& frame = stack_.back();
    if (!frame.keys.insert(name).second) {
      return Fail(absl::StrCat("duplicate key \"", name.substr(0, 64), "\""));
    }
    frame.key = std::move(name);
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) {
    // The library's text: "[json.exception.parse_error.101] parse error at
    // line 1, column 2: what; last read: '...'". Its prefix is of no use to a
    // client, and its end quotes the text, which may be private.
    absl::string_view what = error.what();
    what.remove_prefix(what.find("] ") + 2);
    if (absl::StartsWith(what, "parse error")) {
      what.remove_prefix(what.find(": ") + 2);
    }
    what = what.substr(0, std::min(what.find("; last read"), kMaxWhatBytes));
    return Fail(what, position == 0 ? consumed_ : position - 1);
  }

  absl::Status error() const {
    return error_.ok() ? absl::InvalidArgumentError("JSON: no value") : error_;
  }
  Json& root() { return root_; }

 private:
  struct Frame {
    Json* value;
    std::string key;  // of the member being read
    std::unordered_set<std::string> keys;
  };

  bool Fail(absl::string_view what) {
    return Fail(what, consumed_ == 0 ? 0 : consumed_ - 1);
  }
  bool Fail(absl::string_view what, size_t position) {
    if (error_.ok()) {
      error_ = absl::InvalidArgumentError(
          absl::StrCat("JSON at byte ", position, ": ", what));
    }
    return false;
  }

  // Puts `value` where the text is; null when a limit is passed.
  Json* Add(Json value) {
    if (++num_values_ > limits_.max_values) {
      Fail(absl::StrCat("more than ", limits_.max_values, " values"));
      return nullptr;
    }
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Frame& frame = stack_.back();
    if (frame.value->is_array()) {
      auto& array = frame.value->template get_ref<typename Json::array_t&>();
      array.push_back(std::move(value));
      return &array.back();
    }
    auto& object = frame.value->template get_ref<typename Json::object_t&>();
    if constexpr (std::is_same_v<Json, nlohmann::ordered_json>) {
      // Its own insertion searches the whole object for the key.
      using Members = typename Json::object_t::Container;
      Members& members = object;
      members.emplace_back(std::move(frame.key), std::move(value));
      return &members.back().second;
    } else {
      return &object.emplace(std::move(frame.key), std::move(value))
                  .first->second;
    }
  }

  bool Open(Json container) {
    if (stack_.size() >= limits_.max_depth) {
      return Fail(absl::StrCat("nested deeper than ", limits_.max_depth));
    }
    Json* const value = Add(std::move(container));
    if (value == nullptr) return false;
    stack_.push_back(Frame{value, {}, {}});
    return true;
  }

  bool Close() {
    stack_.pop_back();
    return true;
  }

  const JsonLimits limits_;
  const size_t& consumed_;
  size_t num_values_ = 0;
  Json root_;
  std::vector<Frame> stack_;
  absl::Status error_;
};

template <typename Json>
absl::StatusOr<Json> Parse(absl::string_view text, JsonLimits limits) {
  // The library skips a byte-order mark and takes a NUL byte for the end.
  if (text.substr(0, 3) == "\xEF\xBB\xBF") {
    return absl::InvalidArgumentError("JSON at byte 0: byte-order mark");
  }
  if (const size_t at = text.find('\0'); at != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("JSON at byte ", at, ": NUL byte"));
  }
  size_t consumed = 0;
  Builder<Json> builder(limits, consumed);
  try {
    const CountedInput first{text.data(), &consumed};
    const CountedInput last{text.data() + text.size(), &consumed};
    if (!Json::sax_parse(first, last, &builder)) return builder.error();
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("JSON: ", error.what()));
  }
  return std::move(builder.root());
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text,
                                               JsonLimits limits) {
  return Parse<nlohmann::json>(text, limits);
}

absl::StatusOr<nlohmann::ordered_json> ParseStrictOrderedJson(
    absl::string_view text, JsonLimits limits) {
  return Parse<nlohmann::ordered_json>(text, limits);
}

}  // namespace sluice
