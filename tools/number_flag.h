#ifndef TOOLS_NUMBER_FLAG_H_
#define TOOLS_NUMBER_FLAG_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sluice {

// A flag with a whole number in [least, most], both ends included.
struct NumberFlag {
  absl::string_view name;  // with its dashes
  int* value = nullptr;
  int least = 0;
  int most = 0;
};

// Sets the flag `name` to `text`. kInvalidArgument, with the name and the
// text, when no flag has the name or the text is no number it takes.
absl::Status SetNumberFlag(absl::Span<const NumberFlag> flags,
                           absl::string_view name, absl::string_view text);

}  // namespace sluice

#endif  // TOOLS_NUMBER_FLAG_H_
