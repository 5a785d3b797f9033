#ifndef KVTRANSFER_UCX_DATA_CODEC_H_
#define KVTRANSFER_UCX_DATA_CODEC_H_

#include <array>
#include <cstddef>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

// A DataHeader on the wire: id, both generations, ranks, index, rectangle,
// offset, in declaration order, little-endian.
inline constexpr size_t kDataHeaderBytes = 16 + 2 * 8 + 3 * 4 + 4 * 4 + 8;

std::array<std::byte, kDataHeaderBytes> EncodeDataHeader(
    const DataHeader& header);
// kInvalidArgument for another size.
absl::StatusOr<DataHeader> DecodeDataHeader(absl::Span<const std::byte> bytes);

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_UCX_DATA_CODEC_H_
