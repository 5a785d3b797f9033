#ifndef TOOLS_KV_DUMP_RUN_H_
#define TOOLS_KV_DUMP_RUN_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sluice {

// What a run of kv_dump printed, and its exit code: 0; 1 when a worker does
// not answer, a file is not what it should be, KV may not be mixed or a ledger
// does not add up; 64 for a wrong command line.
struct KvDumpResult {
  int exit_code = 0;
  std::string out;
  std::string err;
};

// `args` without the program's name; usage in tools/kv_dump.cc.
KvDumpResult RunKvDump(absl::Span<const absl::string_view> args);

}  // namespace sluice

#endif  // TOOLS_KV_DUMP_RUN_H_
