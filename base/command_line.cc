#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/config.h"
#include "base/status_macros.h"

namespace sluice {
namespace {

absl::Status Wrong(absl::string_view argument, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("argument \"", argument.substr(0, 200), "\": ", why));
}

// Fills what belongs to the command line itself; false if `name` does not.
absl::StatusOr<bool> TakeOwn(const std::string& argument,
                             const CommandLine::Override& flag,
                             CommandLine& line) {
  const auto set_switch = [&](bool& target) -> absl::StatusOr<bool> {
    if (flag.has_value && flag.value != "true" && flag.value != "false") {
      return Wrong(argument, "want true or false");
    }
    target = !flag.has_value || flag.value == "true";
    return true;
  };
  if (flag.path == "check") return set_switch(line.check);
  if (flag.path == "version") return set_switch(line.version);
  if (flag.path == "help") return set_switch(line.help);
  std::string* const target = flag.path == "config"  ? &line.config_path
                              : flag.path == "probe" ? &line.probe
                              : flag.path == "probe.address"
                                  ? &line.probe_address
                                  : nullptr;
  if (target == nullptr) return false;
  if (flag.value.empty()) return Wrong(argument, "needs a value");
  if (flag.path == "probe" && flag.value != "live" && flag.value != "ready") {
    return Wrong(argument, "want live or ready");
  }
  *target = flag.value;
  return true;
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(
    int argc, const char* const* argv,
    const std::vector<std::string>& own_flags) {
  CommandLine line;
  std::set<std::string> seen;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.size() < 3 || argument.compare(0, 2, "--") != 0 ||
        argument[2] == '=') {
      return Wrong(argument, "want --name=value");
    }
    CommandLine::Override flag;
    const size_t equals = argument.find('=');
    flag.path = argument.substr(2, equals - 2);
    flag.has_value = equals != std::string::npos;
    if (flag.has_value) flag.value = argument.substr(equals + 1);
    ASSIGN_OR_RETURN(bool taken, TakeOwn(argument, flag, line));
    if (!taken && std::count(own_flags.begin(), own_flags.end(), flag.path)) {
      if (flag.value.empty()) return Wrong(argument, "needs a value");
      line.own[flag.path] = flag.value;
      taken = true;
    }
    if (!taken) {
      line.overrides.push_back(std::move(flag));
    } else if (!seen.insert(flag.path).second) {
      return Wrong(argument, "given twice");
    }
  }
  return line;
}

}  // namespace sluice
