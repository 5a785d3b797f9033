#include "router/text/template_json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

constexpr size_t kMaxParseDepth = 64;
constexpr int kMaxWriteDepth = 100;
constexpr double kMaxNumber = 9e18;  // the engine casts numbers to int64

using Json = nlohmann::json;

// Builds engine values from parser events. Returning false ends the parse.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(size_t max_values) : max_values_(max_values) {}

  bool null() override { return Add(jinja::mk_val<jinja::value_none>()); }
  bool boolean(bool value) override {
    return Add(jinja::mk_val<jinja::value_bool>(value));
  }
  bool number_integer(number_integer_t value) override {
    return Add(jinja::mk_val<jinja::value_int>(value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Fail("has a number beyond 64 bits");
    }
    return number_integer(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!(std::abs(value) <= kMaxNumber)) {
      return Fail(absl::StrCat("has the number ", text.substr(0, 40)));
    }
    return Add(jinja::mk_val<jinja::value_float>(value));
  }
  bool string(string_t& value) override {
    return Add(jinja::mk_val<jinja::value_string>(std::string(value)));
  }
  bool binary(binary_t&) override { return Fail("has binary data"); }
  bool start_object(size_t) override {
    return Open(jinja::mk_val<jinja::value_object>());
  }
  bool start_array(size_t) override {
    return Open(jinja::mk_val<jinja::value_array>());
  }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    keys_.back() = jinja::mk_val<jinja::value_string>(std::string(name));
    if (open_.back()->has_key(keys_.back())) {
      return Fail(
          absl::StrCat("repeats the key \"", Utf8Excerpt(name, 80), "\""));
    }
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("is not valid JSON at byte ", position));
  }

  const std::string& error() const { return error_; }
  jinja::value root() const { return root_; }

 private:
  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }
  bool Add(jinja::value value) {
    if (++num_values_ > max_values_) {
      return Fail(absl::StrCat("has more than ", max_values_, " values"));
    }
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (keys_.back() != nullptr) {
      open_.back()->insert(keys_.back(), value);
    } else {
      jinja::cast_val<jinja::value_array>(open_.back())
          ->push_back(std::move(value));
    }
    return true;
  }
  bool Open(const jinja::value& container) {
    if (open_.size() == kMaxParseDepth) {
      return Fail(absl::StrCat("is nested deeper than ", kMaxParseDepth));
    }
    if (!Add(container)) return false;
    open_.push_back(container);
    keys_.emplace_back();
    return true;
  }
  bool Close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  const size_t max_values_;
  size_t num_values_ = 0;
  jinja::value root_;
  std::vector<jinja::value> open_;  // containers, outermost first
  std::vector<jinja::value> keys_;  // [open_] of the next value; arrays: null
  std::string error_;
};

// The shortest digits that read back equal, laid out as Python's repr().
void AppendFloat(double value, std::string& out) {
  if (!std::isfinite(value)) {
    out += std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
    return;
  }
  char buffer[64];
  const auto written = std::to_chars(std::begin(buffer), std::end(buffer),
                                     value, std::chars_format::scientific);
  const absl::string_view text(buffer,
                               static_cast<size_t>(written.ptr - buffer));
  const int exponent = std::atoi(buffer + text.find('e') + 1);
  if (exponent < -4 || exponent >= 16) {
    absl::StrAppend(&out, text);
    return;
  }
  const auto fixed = std::to_chars(std::begin(buffer), std::end(buffer), value,
                                   std::chars_format::fixed);
  const absl::string_view digits(buffer,
                                 static_cast<size_t>(fixed.ptr - buffer));
  absl::StrAppend(&out, digits,
                  digits.find('.') == absl::string_view::npos ? ".0" : "");
}

class Writer {
 public:
  Writer(const JsonStyle& style, size_t max_bytes)
      : style_(style), max_bytes_(max_bytes) {}

  void Write(const jinja::value& value, int depth) {
    if (depth > kMaxWriteDepth) {
      throw std::runtime_error("tojson: value is nested too deeply");
    }
    if (jinja::is_val<jinja::value_bool>(value)) {
      out_ += value->as_bool() ? "true" : "false";
    } else if (jinja::is_val<jinja::value_int>(value)) {
      absl::StrAppend(&out_, value->as_int());
    } else if (jinja::is_val<jinja::value_float>(value)) {
      AppendFloat(value->as_float(), out_);
    } else if (jinja::is_val<jinja::value_string>(value)) {
      WriteString(value->as_string().str());
    } else if (jinja::is_val<jinja::value_array>(value)) {
      WriteArray(value->as_array(), depth);
    } else if (jinja::is_val<jinja::value_object>(value)) {
      WriteObject(value->as_ordered_object(), depth);
    } else {
      out_ += "null";
    }
    if (out_.size() > max_bytes_) {
      throw std::runtime_error(
          absl::StrCat("tojson: text exceeds ", max_bytes_, " bytes"));
    }
  }

  std::string Take() { return std::move(out_); }

 private:
  void NewLine(int depth) {
    if (style_.indent_spaces < 0) return;
    out_ += '\n';
    out_.append(
        static_cast<size_t>(style_.indent_spaces) * static_cast<size_t>(depth),
        ' ');
  }

  void WriteArray(const std::vector<jinja::value>& items, int depth) {
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      NewLine(depth + 1);
      Write(items[i], depth + 1);
    }
    if (!items.empty()) NewLine(depth);
    out_ += ']';
  }

  void WriteObject(std::vector<std::pair<jinja::value, jinja::value>> items,
                   int depth) {
    if (style_.sort_keys) {
      std::stable_sort(
          items.begin(), items.end(), [](const auto& a, const auto& b) {
            return a.first->as_string().str() < b.first->as_string().str();
          });
    }
    out_ += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      NewLine(depth + 1);
      WriteString(items[i].first->as_string().str());
      out_ += style_.key_separator;
      Write(items[i].second, depth + 1);
    }
    if (!items.empty()) NewLine(depth);
    out_ += '}';
  }

  void WriteString(const std::string& text) {
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = Utf8At(text, at);
      if (c.size_bytes == 1) {
        WriteAscii(text[at]);
      } else if (!style_.ensure_ascii) {
        out_.append(text, at, c.size_bytes);
      } else if (c.code_point >= 0x10000) {
        const uint32_t offset = c.code_point - 0x10000;
        absl::StrAppendFormat(&out_, "\\u%04x\\u%04x", 0xD800 + (offset >> 10),
                              0xDC00 + (offset & 0x3FF));
      } else {
        absl::StrAppendFormat(&out_, "\\u%04x", c.code_point);
      }
      at += c.size_bytes;
    }
    out_ += '"';
  }

  void WriteAscii(char c) {
    constexpr absl::string_view kEscaped = "\"\\\n\r\t\b\f";
    constexpr absl::string_view kLetters = "\"\\nrtbf";
    const size_t index = kEscaped.find(c);
    if (index != absl::string_view::npos) {
      out_ += '\\';
      out_ += kLetters[index];
    } else if (static_cast<uint8_t>(c) < 0x20) {
      absl::StrAppendFormat(&out_, "\\u%04x", static_cast<uint8_t>(c));
    } else {
      out_ += c;
    }
  }

  const JsonStyle& style_;
  const size_t max_bytes_;
  std::string out_;
};

}  // namespace

absl::StatusOr<jinja::value> ValueFromJson(absl::string_view text,
                                           absl::string_view what,
                                           size_t max_values) {
  Builder builder(max_values);
  if (Json::sax_parse(text.begin(), text.end(), &builder)) {
    return builder.root();
  }
  return absl::InvalidArgumentError(absl::StrCat(what, " ", builder.error()));
}

std::string JsonFromValue(const jinja::value& value, const JsonStyle& style,
                          size_t max_bytes) {
  Writer writer(style, max_bytes);
  writer.Write(value, 0);
  return writer.Take();
}

}  // namespace sluice::router
