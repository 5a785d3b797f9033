#include "tools/number_flag.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sluice {

absl::Status SetNumberFlag(absl::Span<const NumberFlag> flags,
                           absl::string_view name, absl::string_view text) {
  for (const NumberFlag& flag : flags) {
    if (flag.name != name) continue;
    int value = 0;
    if (!absl::SimpleAtoi(text, &value) || value < flag.least ||
        value > flag.most) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " wants a number in [", flag.least, ", ",
                       flag.most, "], got \"", text, "\""));
    }
    *flag.value = value;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown flag ", name));
}

}  // namespace sluice
