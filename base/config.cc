#include "base/config.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/config_fields.h"
#include "base/status_macros.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"

namespace sluice {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

// Keeps the first error with its place in the file.
class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& what) override {
    if (!text_.empty()) return;
    // Counted from 0; -1 is the file as a whole.
    text_ =
        line < 0 ? what : absl::StrCat(line + 1, ":", column + 1, ": ", what);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

absl::Status ParseFile(const std::string& path, Message& config) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (!file || file.bad() || text.bad() || text.fail()) {
    // An empty file also sets failbit of `text`.
    if (file && text.str().empty() && errno == 0) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("--config: cannot read \"", path,
                     "\": ", errno != 0 ? std::strerror(errno) : "not a file"));
  }
  FirstError error;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (parser.ParseFromString(text.str(), &config)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("--config: ", path, ":", error.text()));
}

std::string ValueText(const Message& message, const FieldDescriptor& field,
                      int index) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    const auto* reflection = message.GetReflection();
    return EnumFlagName(
        *(field.is_repeated()
              ? reflection->GetRepeatedEnum(message, &field, index)
              : reflection->GetEnum(message, &field)));
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    std::string scratch;
    const auto* reflection = message.GetReflection();
    return field.is_repeated()
               ? reflection->GetRepeatedStringReference(message, &field, index,
                                                        &scratch)
               : reflection->GetStringReference(message, &field, &scratch);
  }
  std::string text;
  TextFormat::PrintFieldValueToString(message, &field, index, &text);
  return text;
}

void AppendFields(const Message& message, const std::string& prefix,
                  std::string& out) {
  const auto* reflection = message.GetReflection();
  const auto* type = message.GetDescriptor();
  for (int i = 0; i < type->field_count(); ++i) {
    const FieldDescriptor& field = *type->field(i);
    const std::string path = absl::StrCat(prefix, field.name());
    const bool is_message =
        field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (field.is_repeated()) {
      const int size = reflection->FieldSize(message, &field);
      for (int index = 0; index < size; ++index) {
        if (is_message) {
          absl::StrAppend(&out, path, "={",
                          reflection->GetRepeatedMessage(message, &field, index)
                              .ShortDebugString(),
                          "}\n");
        } else {
          absl::StrAppend(&out, path, "=", ValueText(message, field, index),
                          "\n");
        }
      }
    } else if (is_message) {
      AppendFields(reflection->GetMessage(message, &field), path + ".", out);
    } else if (!field.has_presence() || reflection->HasField(message, &field)) {
      absl::StrAppend(&out, path, "=", ValueText(message, field, -1), "\n");
    }
  }
}

}  // namespace

absl::Status LoadConfig(const CommandLine& command_line, Message& config) {
  if (!command_line.config_path.empty()) {
    RETURN_IF_ERROR(ParseFile(command_line.config_path, config));
  }
  FieldSetter setter(config);
  for (const CommandLine::Override& flag : command_line.overrides) {
    RETURN_IF_ERROR(setter.Set(flag.path, flag.value, flag.has_value));
  }
  return absl::OkStatus();
}

std::string EffectiveConfig(const Message& config) {
  std::string out;
  AppendFields(config, "", out);
  return out;
}

}  // namespace sluice
