#ifndef KVTRANSFER_RECEIVING_RECTANGLE_H_
#define KVTRANSFER_RECEIVING_RECTANGLE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "kvtransfer/destination_transfer.h"
#include "kvtransfer/transfer_plan.h"
#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

// One rectangle on its way: announced, arriving, or being read.
struct DestinationTransfer::Receiving : public ReadSink {
  Receiving(DestinationTransfer* o, const StreamPlan& stream,
            const Rectangle& rectangle)
      : owner(o), plan(stream, rectangle), digests(plan.num_spans(), 0) {}

  // A piece is a merged copy: runs that lie one after the other.
  void OnPiece(size_t piece, absl::Span<const std::byte> bytes,
               const std::byte* next) override;
  // Small ones that consist of the same runs go side by side.
  void OnPieces(size_t first,
                absl::Span<const absl::Span<const std::byte>> pieces) override;

  // Moves the first few, and says how many; 0: they are to go one by one.
  size_t MoveGroup(size_t first,
                   absl::Span<const absl::Span<const std::byte>> pieces);
  PieceArgs ArgsOf(size_t piece, const RectanglePlan::Piece& parts,
                   absl::Span<const std::byte> bytes,
                   const std::byte* next) const;
  void CopyRunByRun(const Copy& copy, absl::Span<const std::byte> bytes);

  BlockSlice source_blocks() const {
    return {announced.source_blocks,
            plan.rectangle().t0 / plan.stream().source_block_tokens};
  }

  DestinationTransfer* const owner;
  RectanglePlan plan;
  std::vector<uint64_t> digests;  // of what was placed, per span
  bool is_announced = false;
  RectangleDone announced;
  // Pull.
  std::vector<Copy> copies;
  std::optional<OperationId> read;
  // Stream: one bit a message.
  std::vector<bool> arrived;
  size_t num_arrived = 0;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_RECEIVING_RECTANGLE_H_
