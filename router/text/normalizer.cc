#include "router/text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

bool IsAscii(absl::string_view text) {
  for (char c : text) {
    if (static_cast<uint8_t>(c) >= 0x80) return false;
  }
  return true;
}

absl::StatusOr<std::string> MapForm(const std::string& text, int options) {
  if (IsAscii(text)) return text;
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                   static_cast<utf8proc_option_t>(options));
  if (size < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot normalise text: ", utf8proc_errmsg(size)));
  }
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(
      mapped, &std::free);
  return std::string(reinterpret_cast<const char*>(mapped),
                     static_cast<size_t>(size));
}

template <typename Fn>
std::string MapChars(absl::string_view text, Fn&& append) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = Utf8At(text, at);
    append(c.code_point, out);
    at += c.size_bytes;
  }
  return out;
}

void AppendLowercase(uint32_t code_point, std::string& out) {
  if (code_point == 0x130) {  // the one full mapping that is longer
    out += "i\xCC\x87";
    return;
  }
  const auto lower =
      utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point));
  AppendUtf8(static_cast<uint32_t>(lower), out);
}

utf8proc_category_t CategoryOf(uint32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

bool IsMark(uint32_t code_point) {
  const utf8proc_category_t category = CategoryOf(code_point);
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

absl::StatusOr<std::string> ApplyForm(Normalizer::Form form,
                                      const std::string& text) {
  switch (form) {
    case Normalizer::Form::kNfc:
      return MapForm(text, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    case Normalizer::Form::kNfd:
      return MapForm(text, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    case Normalizer::Form::kNfkc:
      return MapForm(text,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
    case Normalizer::Form::kNfkd:
      return MapForm(text,
                     UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
    case Normalizer::Form::kLowercase:
      return MapChars(text, AppendLowercase);
    case Normalizer::Form::kStripAccents:
      return MapChars(text, [](uint32_t c, std::string& out) {
        if (!IsMark(c)) AppendUtf8(c, out);
      });
  }
  return text;
}

std::string StripSpaces(absl::string_view text, bool left, bool right) {
  size_t begin = 0;
  while (left && begin < text.size()) {
    const Utf8Char c = Utf8At(text, begin);
    if (!IsWhiteSpace(c.code_point)) break;
    begin += c.size_bytes;
  }
  size_t end = text.size();
  while (right && end > begin) {
    size_t at = end - 1;
    while ((static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
    if (!IsWhiteSpace(Utf8At(text, at).code_point)) break;
    end = at;
  }
  return absl::StrCat(text.substr(begin, end - begin));
}

absl::StatusOr<std::string> ReplaceMatches(const Pattern& from,
                                           const std::string& to,
                                           absl::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    ASSIGN_OR_RETURN(const Pattern::Match match, from.Find(text, at));
    absl::StrAppend(&out, text.substr(at, match.begin - at));
    if (match.begin == match.end) break;
    out += to;
    at = match.end;
  }
  return out;
}

}  // namespace

bool IsWhiteSpace(uint32_t code_point) {
  if (code_point < 0x80) {
    return code_point == ' ' || (code_point >= 9 && code_point <= 13);
  }
  if (code_point == 0x85) return true;
  const utf8proc_category_t category = CategoryOf(code_point);
  return category >= UTF8PROC_CATEGORY_ZS && category <= UTF8PROC_CATEGORY_ZP;
}

bool IsWordChar(uint32_t code_point) {
  const utf8proc_category_t category = CategoryOf(code_point);
  return (category >= UTF8PROC_CATEGORY_LU &&
          category <= UTF8PROC_CATEGORY_ND) ||
         category == UTF8PROC_CATEGORY_PC;
}

absl::StatusOr<std::string> Normalizer::ApplyStep(const Step& step,
                                                  const std::string& text) {
  if (const auto* form = std::get_if<Form>(&step)) {
    return ApplyForm(*form, text);
  }
  if (const auto* prepend = std::get_if<Prepend>(&step)) {
    return prepend->text + text;
  }
  if (const auto* replace = std::get_if<ReplaceText>(&step)) {
    return absl::StrReplaceAll(text, {{replace->from, replace->to}});
  }
  if (const auto* replace = std::get_if<ReplacePattern>(&step)) {
    return ReplaceMatches(replace->from, replace->to, text);
  }
  const Strip& strip = std::get<Strip>(step);
  return StripSpaces(text, strip.left, strip.right);
}

absl::StatusOr<std::string> Normalizer::Apply(absl::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) {
    if (out.empty()) break;
    ASSIGN_OR_RETURN(out, ApplyStep(step, out));
  }
  return out;
}

}  // namespace sluice::router
