#include "kvtransfer/transfer_stats.h"

namespace sluice::kvtransfer {

const char* TransferDirectionName(TransferDirection direction) {
  return direction == TransferDirection::kSend ? "send" : "receive";
}

void TransferStats::CountEnd(TransferDirection direction,
                             const TransferResult& result) {
  ++transfers[{direction, result.transport, result.state,
               result.status.code()}];
  Volume& volume = volumes[{direction, result.transport}];
  volume.bytes += result.bytes;
  volume.copies += result.copies;
  volume.elapsed_us += static_cast<uint64_t>(result.elapsed_us);
  ++volume.ended;
}

}  // namespace sluice::kvtransfer
