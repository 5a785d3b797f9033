#include "kvtransfer/receiving_rectangle.h"

#include <algorithm>
#include <array>

namespace sluice::kvtransfer {

void DestinationTransfer::Receiving::OnPiece(size_t piece,
                                             absl::Span<const std::byte> bytes,
                                             const std::byte* next) {
  if (!owner->open()) return;
  const Copy& copy = copies[piece];
  const RectanglePlan::Piece parts = plan.PieceOf(copy);
  if (parts.runs.empty()) {
    CopyRunByRun(copy, bytes);
    return;
  }
  const PieceArgs args = ArgsOf(piece, parts, bytes, next);
  if (owner->context_->limits.digests) {
    digests[parts.span] += BestPieceKernels().copy_and_digest(args);
  } else {
    BestPieceKernels().copy(args);
  }
}

void DestinationTransfer::Receiving::OnPieces(
    size_t first, absl::Span<const absl::Span<const std::byte>> pieces) {
  while (!pieces.empty()) {
    size_t count = MoveGroup(first, pieces);
    if (count == 0) {
      count = 1;
      OnPiece(first, pieces[0], pieces.size() > 1 ? pieces[1].data() : nullptr);
    }
    first += count;
    pieces.remove_prefix(count);
  }
}

size_t DestinationTransfer::Receiving::MoveGroup(
    size_t first, absl::Span<const absl::Span<const std::byte>> pieces) {
  if (!owner->open() || pieces[0].size() > kGroupedBytes) return 0;
  std::array<PieceArgs, kGroupPieces> args;
  std::array<uint32_t, kGroupPieces> spans;
  std::array<uint64_t, kGroupPieces> sums;
  const size_t most = std::min(kGroupPieces, pieces.size());
  size_t count = 0;
  for (; count < most; ++count) {
    const RectanglePlan::Piece parts = plan.PieceOf(copies[first + count]);
    args[count] = ArgsOf(first + count, parts, pieces[count], nullptr);
    spans[count] = parts.span;
    if (parts.runs.empty() || parts.runs.data() != args[0].runs.data()) break;
  }
  if (count < 2) return 0;
  for (size_t i = 0; i < count && i + count < pieces.size(); ++i) {
    args[i].next = pieces[i + count].data();
  }
  const auto group = absl::MakeConstSpan(args).first(count);
  if (!owner->context_->limits.digests) {
    BestPieceKernels().copy_group(group);
    return count;
  }
  BestPieceKernels().copy_and_digest_group(group, absl::MakeSpan(sums));
  for (size_t i = 0; i < count; ++i) digests[spans[i]] += sums[i];
  return count;
}

PieceArgs DestinationTransfer::Receiving::ArgsOf(
    size_t piece, const RectanglePlan::Piece& parts,
    absl::Span<const std::byte> bytes, const std::byte* next) const {
  const Copy& copy = copies[piece];
  PieceArgs args{.from = bytes.data(),
                 .to = owner->TargetAt(copy),
                 .size_bytes = copy.size_bytes,
                 .runs = parts.runs,
                 .token = parts.token,
                 .next = next};
  if (next != nullptr && piece + 2 < copies.size()) {
    const Copy& later = copies[piece + 2];
    args.later_from =
        next - copies[piece + 1].source_offset + later.source_offset;
    args.later_to = owner->TargetAt(later);
  }
  return args;
}

void DestinationTransfer::Receiving::CopyRunByRun(
    const Copy& copy, absl::Span<const std::byte> bytes) {
  const StreamGroup& group = plan.stream().groups[copy.group_index];
  for (uint32_t i = 0; i < copy.num_runs; ++i) {
    const RectanglePlan::Run run = plan.run(copy.first_run + i);
    const uint64_t at =
        plan.SourceOffset(run, source_blocks()) - copy.source_offset;
    digests[plan.SpanOf(run)] +=
        CopyRun(run.shape, group.source.layout.inner_order, bytes.data() + at,
                group.target.layout.inner_order, owner->TargetBytes(plan, run));
  }
}

}  // namespace sluice::kvtransfer
