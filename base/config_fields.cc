#include "base/config_fields.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "google/protobuf/descriptor.h"

namespace sluice {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

absl::Status Wrong(const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("--", path, ": ", why));
}

absl::Status WrongValue(const std::string& path, const std::string& value,
                        const std::string& want) {
  return Wrong(path,
               absl::StrCat("\"", value.substr(0, 200), "\" is not ", want));
}

// Sets or, for a repeated field, adds a value of C++ type T.
template <typename T>
void Store(Message& message, const FieldDescriptor& field, T value,
           void (Reflection::*set)(Message*, const FieldDescriptor*, T) const,
           void (Reflection::*add)(Message*, const FieldDescriptor*, T) const) {
  const Reflection& reflection = *message.GetReflection();
  (reflection.*(field.is_repeated() ? add : set))(&message, &field,
                                                  std::move(value));
}

template <typename T>
bool ParseInteger(const std::string& text, T* value) {
  // SimpleAtoi takes blanks and a plus sign.
  if (text.empty() || !(absl::ascii_isdigit(text[0]) || text[0] == '-')) {
    return false;
  }
  return absl::SimpleAtoi(text, value);
}

bool ParseBool(const std::string& text, bool* value) {
  *value = text == "true" || text == "1";
  return *value || text == "false" || text == "0";
}

bool ParseFinite(const std::string& text, double* value) {
  return absl::SimpleAtod(text, value) && std::isfinite(*value) &&
         !absl::ascii_isspace(text.front()) &&
         !absl::ascii_isspace(text.back());
}

absl::Status StoreEnum(Message& message, const FieldDescriptor& field,
                       const std::string& path, const std::string& text) {
  const EnumDescriptor& type = *field.enum_type();
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    const EnumValueDescriptor& value = *type.value(i);
    names.push_back(EnumFlagName(value));
    if (absl::EqualsIgnoreCase(text, value.name()) ||
        absl::EqualsIgnoreCase(text, names.back())) {
      Store(message, field, &value, &Reflection::SetEnum, &Reflection::AddEnum);
      return absl::OkStatus();
    }
  }
  return WrongValue(path, text, absl::StrJoin(names, ", "));
}

absl::Status StoreText(Message& message, const FieldDescriptor& field,
                       const std::string& path, const std::string& text) {
  const auto number = [&](auto value, auto set, auto add,
                          const char* want) -> absl::Status {
    if (!ParseInteger(text, &value)) return WrongValue(path, text, want);
    Store(message, field, value, set, add);
    return absl::OkStatus();
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return number(int32_t{}, &Reflection::SetInt32, &Reflection::AddInt32,
                    "an integer of 32 bits");
    case FieldDescriptor::CPPTYPE_INT64:
      return number(int64_t{}, &Reflection::SetInt64, &Reflection::AddInt64,
                    "an integer of 64 bits");
    case FieldDescriptor::CPPTYPE_UINT32:
      return number(uint32_t{}, &Reflection::SetUInt32, &Reflection::AddUInt32,
                    "an integer in 0..4294967295");
    case FieldDescriptor::CPPTYPE_UINT64:
      return number(uint64_t{}, &Reflection::SetUInt64, &Reflection::AddUInt64,
                    "an integer in 0..18446744073709551615");
    case FieldDescriptor::CPPTYPE_BOOL: {
      bool value = false;
      if (!ParseBool(text, &value)) {
        return WrongValue(path, text, "true or false");
      }
      Store(message, field, value, &Reflection::SetBool, &Reflection::AddBool);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_FLOAT:
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      const bool is_double =
          field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE;
      if (!ParseFinite(text, &value) ||
          (!is_double && !std::isfinite(static_cast<float>(value)))) {
        return WrongValue(path, text, "a finite number");
      }
      if (is_double) {
        Store(message, field, value, &Reflection::SetDouble,
              &Reflection::AddDouble);
      } else {
        Store(message, field, static_cast<float>(value), &Reflection::SetFloat,
              &Reflection::AddFloat);
      }
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING:
      Store<std::string>(message, field, text, &Reflection::SetString,
                         &Reflection::AddString);
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_ENUM:
      return StoreEnum(message, field, path, text);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
  return Wrong(path, "names a group of fields, not one");
}

}  // namespace

std::string EnumFlagName(const EnumValueDescriptor& value) {
  // LogFormat -> LOG_FORMAT_
  std::string prefix;
  for (const char c : value.type()->name()) {
    if (absl::ascii_isupper(c) && !prefix.empty()) prefix += '_';
    prefix += absl::ascii_toupper(c);
  }
  prefix += '_';
  absl::string_view name = value.name();
  absl::ConsumePrefix(&name, prefix);
  return absl::AsciiStrToLower(name);
}

absl::Status FieldSetter::Set(const std::string& path, const std::string& value,
                              bool has_value) {
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  const auto* type = root_.GetDescriptor();
  std::vector<const FieldDescriptor*> fields;
  for (const std::string& name : names) {
    const FieldDescriptor* field =
        type == nullptr ? nullptr : type->FindFieldByName(name);
    const bool on_the_way = fields.size() + 1 < names.size();
    if (field == nullptr) return Wrong(path, "no such flag");
    if (on_the_way && field->is_repeated()) {
      return Wrong(path, "fields of a list can only be set in the file");
    }
    fields.push_back(field);
    type = field->message_type();
  }
  const FieldDescriptor& last = *fields.back();
  const bool is_bool = last.cpp_type() == FieldDescriptor::CPPTYPE_BOOL;
  if (!has_value && type != nullptr) {
    return Wrong(path, "names a group of fields, not one");
  }
  if (!has_value && !is_bool) return Wrong(path, "needs a value");

  Message* message = &root_;
  for (size_t i = 0; i + 1 < fields.size(); ++i) {
    message = message->GetReflection()->MutableMessage(message, fields[i]);
  }
  const bool is_first = seen_.insert(path).second;
  if (!is_first && !last.is_repeated()) return Wrong(path, "given twice");
  if (is_first && last.is_repeated()) {
    message->GetReflection()->ClearField(message, &last);
  }
  return StoreText(*message, last, path, has_value ? value : "true");
}

}  // namespace sluice
