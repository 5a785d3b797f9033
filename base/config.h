#ifndef BASE_CONFIG_H_
#define BASE_CONFIG_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class Message;
}

namespace sluice {

// A command line, split but not yet applied to a config message.
struct CommandLine {
  std::string config_path;    // --config=FILE; empty: none
  bool check = false;         // --check
  bool version = false;       // --version
  bool help = false;          // --help
  std::string probe;          // --probe=live|ready; empty: not asked
  std::string probe_address;  // --probe.address=HOST:PORT
  // The `own_flags` given to ParseCommandLine that were present.
  std::map<std::string, std::string> own;
  // --a.b=value in order, without the dashes; value "" and has_value false for
  // a bare --a.b.
  struct Override {
    std::string path;
    std::string value;
    bool has_value = false;
  };
  std::vector<Override> overrides;
};

// Splits argv[1..]. `own_flags`: names of further flags with a value (for
// instance "smoke"). INVALID_ARGUMENT naming the argument: positional ones, an
// empty name, a wrong value of a flag above, one of those twice.
absl::StatusOr<CommandLine> ParseCommandLine(
    int argc, const char* const* argv,
    const std::vector<std::string>& own_flags = {});

// Fills `config` from the textproto file, then from the flags, which win.
// A path is field names joined by dots; a bare bool flag is true; repeated
// fields take one value per flag and the first one replaces the file's list;
// enums go by value name, in any case, with or without the type's prefix.
// INVALID_ARGUMENT: a flag names no field, has a value of the wrong type or
// range, or sets a singular field twice. FAILED_PRECONDITION: the file is
// unreadable or wrong, with line and column.
absl::Status LoadConfig(const CommandLine& command_line,
                        google::protobuf::Message& config);

// One `a.b=value` line per field that is set or cannot be unset, in field
// order; repeated fields one line per element. As flags, these lines give the
// same message again, but for lists of messages.
std::string EffectiveConfig(const google::protobuf::Message& config);

}  // namespace sluice

#endif  // BASE_CONFIG_H_
