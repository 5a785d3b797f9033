#ifndef BASE_CONFIG_FIELDS_H_
#define BASE_CONFIG_FIELDS_H_

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace sluice {

// Sets fields of a message by dotted path; remembers which it has set, so that
// a second value of a singular field is an error and the first of a repeated
// one replaces what was there. One message, one thread.
class FieldSetter {
 public:
  explicit FieldSetter(google::protobuf::Message& root) : root_(root) {}

  // INVALID_ARGUMENT as LoadConfig().
  absl::Status Set(const std::string& path, const std::string& value,
                   bool has_value);

 private:
  google::protobuf::Message& root_;
  std::set<std::string> seen_;
};

// The names of an enum value as flags write it: in lower case, without the
// type's name in front ("LOG_FORMAT_TEXT" of LogFormat is "text").
std::string EnumFlagName(const google::protobuf::EnumValueDescriptor& value);

}  // namespace sluice

#endif  // BASE_CONFIG_FIELDS_H_
