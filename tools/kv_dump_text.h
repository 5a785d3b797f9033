#ifndef TOOLS_KV_DUMP_TEXT_H_
#define TOOLS_KV_DUMP_TEXT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kvtransfer/layout_manifest.h"
#include "proto/worker.pb.h"

namespace sluice {

// What kv_dump prints, as text of whole lines. Pure.

// Every rank and group with its heads, layers, byte order and place.
std::string ManifestText(const kvtransfer::LayoutManifest& manifest);

struct PlanArgs {
  const kvtransfer::LayoutManifest* source = nullptr;  // valid
  const kvtransfer::LayoutManifest* destination = nullptr;
  uint32_t source_replica = 0;
  uint32_t destination_replica = 0;
  uint32_t skip_tokens = 0;  // multiple of the destination's block_tokens
  uint32_t num_tokens = 0;
};
// The streams between two workers and the rectangles of each, as a source
// announces a prompt whose KV became final at once. Blocks are positions in the
// two block lists, the blocks of a list being neighbours in memory.
// kFailedPrecondition where KV may not be mixed, kInvalidArgument for a replica
// or tokens that cannot be.
absl::StatusOr<std::string> PlanText(const PlanArgs& args);

// `report` adds the worker's name and its links when it is not null.
std::string LedgerText(const v1::LedgerResponse& ledger,
                       const v1::WorkerReport* report);
// Whether every usable block is in exactly one state.
bool Balances(const v1::LedgerResponse& ledger);

}  // namespace sluice

#endif  // TOOLS_KV_DUMP_TEXT_H_
