#include "kvtransfer/ucx/data_codec.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace sluice::kvtransfer {
namespace {

// Calls field(value) for every field in wire order.
template <typename Header, typename Field>
void ForEachField(Header& header, Field field) {
  field(header.transfer_id.bytes);
  field(header.from_generation);
  field(header.to_generation);
  field(header.source_rank);
  field(header.target_rank);
  field(header.index);
  field(header.rectangle.t0);
  field(header.rectangle.t1);
  field(header.rectangle.l0);
  field(header.rectangle.l1);
  field(header.offset);
}

}  // namespace

std::array<std::byte, kDataHeaderBytes> EncodeDataHeader(
    const DataHeader& header) {
  std::array<std::byte, kDataHeaderBytes> bytes;
  size_t at = 0;
  ForEachField(header, [&](const auto& value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
    at += sizeof value;
  });
  SLUICE_CHECK(at == bytes.size());
  return bytes;
}

absl::StatusOr<DataHeader> DecodeDataHeader(absl::Span<const std::byte> bytes) {
  if (bytes.size() != kDataHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "data header of ", bytes.size(), " bytes, want ", kDataHeaderBytes));
  }
  DataHeader header;
  size_t at = 0;
  ForEachField(header, [&](auto& value) {
    std::memcpy(&value, bytes.data() + at, sizeof value);
    at += sizeof value;
  });
  return header;
}

}  // namespace sluice::kvtransfer
