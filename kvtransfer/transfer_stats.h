#ifndef KVTRANSFER_TRANSFER_STATS_H_
#define KVTRANSFER_TRANSFER_STATS_H_

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "kvtransfer/control_message.h"
#include "kvtransfer/transfer_args.h"

namespace sluice::kvtransfer {

enum class TransferDirection { kSend = 0, kReceive = 1 };
const char* TransferDirectionName(TransferDirection direction);

// Counters since start and gauges of now; kv_transfer.md section 14. A value,
// published by the transfer thread. Bounded: keys are enumerations, transport
// names and paired workers.
struct TransferStats {
  // direction, transport, state, code -> transfers.
  std::map<std::tuple<TransferDirection, std::string, TransferState,
                      absl::StatusCode>,
           uint64_t>
      transfers;
  struct Volume {
    uint64_t bytes = 0;
    uint64_t copies = 0;      // after merging
    uint64_t elapsed_us = 0;  // sum over ended transfers
    uint64_t ended = 0;
  };
  std::map<std::pair<TransferDirection, std::string>, Volume> volumes;
  std::map<std::string, uint64_t> stale_messages;   // by kind
  std::map<std::string, uint64_t> late_messages;    // by kind
  std::map<std::string, uint64_t> digest_failures;  // by peer
  std::map<std::string, uint64_t> peers_lost;       // by peer
  uint64_t resent_messages = 0;
  // Rectangles announced with digests kept since their KV was written, and
  // with digests for which it was read once more.
  uint64_t kept_digests = 0;
  uint64_t read_digests = 0;
  std::array<uint64_t, 2> inflight_transfers = {};  // by direction
  std::array<uint64_t, 2> inflight_bytes = {};      // KV they are to move
  // By reason: fingerprint, generation, layout, numerics, version.
  std::map<std::string, uint64_t> pair_refusals;
  uint64_t terminal_records = 0;
  // Of ended put transfers, where a write may still land.
  uint64_t quarantined_blocks = 0;
  uint64_t quarantined_slots = 0;  // of staging

  // Adds one ended transfer to `transfers` and `volumes`.
  void CountEnd(TransferDirection direction, const TransferResult& result);
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TRANSFER_STATS_H_
