// What a worker's KV looks like to its peers, as text:
//
//   kv_dump manifest PLACE [--proto]
//   kv_dump plan --source PLACE --destination PLACE [--tokens N] [--skip N]
//                [--source-replica N] [--destination-replica N]
//   kv_dump ledger PLACE [--proto]
//
// PLACE is HOST:PORT of a worker's gRPC server, or a file in the text format of
// protobuf as --proto prints it (a manifest_id may be left out: it is computed,
// so that a plan of changed layouts is easily had). `plan` prints the streams
// of a transfer between two workers and the rectangles of a prompt of --tokens
// tokens of which the destination already has --skip. `ledger` prints the KV
// blocks by state, open transfers and, of a worker, its peers. Exit codes: 0;
// 1 no answer, a bad file, KV that may not be mixed or a ledger that does not
// add up; 64 usage.

#include <cstdio>
#include <vector>

#include "tools/kv_dump_run.h"

int main(int argc, char** argv) {
  const std::vector<absl::string_view> args(argv + 1, argv + argc);
  const sluice::KvDumpResult result = sluice::RunKvDump(args);
  std::fputs(result.out.c_str(), stdout);
  std::fputs(result.err.c_str(), stderr);
  return result.exit_code;
}
