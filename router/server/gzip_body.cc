#include "router/server/gzip_body.h"

#include <algorithm>
#include <boost/beast/zlib/inflate_stream.hpp>
#include <boost/crc.hpp>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::router {
namespace {

namespace zlib = boost::beast::zlib;

constexpr size_t kStepBytes = 64 << 10;
constexpr size_t kHeaderBytes = 10;
constexpr size_t kTrailerBytes = 8;

// Bits of the header's FLG byte.
constexpr uint8_t kHasHeaderCrc = 1 << 1;
constexpr uint8_t kHasExtra = 1 << 2;
constexpr uint8_t kHasName = 1 << 3;
constexpr uint8_t kHasComment = 1 << 4;
constexpr uint8_t kReserved = 0xE0;

uint8_t ByteAt(absl::string_view bytes, size_t at) {
  return static_cast<uint8_t>(bytes[at]);
}

uint32_t Uint32At(absl::string_view bytes, size_t at) {
  return ByteAt(bytes, at) | uint32_t{ByteAt(bytes, at + 1)} << 8 |
         uint32_t{ByteAt(bytes, at + 2)} << 16 |
         uint32_t{ByteAt(bytes, at + 3)} << 24;
}

absl::Status CutShort() {
  return absl::InvalidArgumentError("gzip: cut short");
}

// Takes a member's header off `packed`.
absl::Status SkipHeader(absl::string_view& packed) {
  if (packed.size() < kHeaderBytes) return CutShort();
  const uint8_t flags = ByteAt(packed, 3);
  if (ByteAt(packed, 0) != 0x1F || ByteAt(packed, 1) != 0x8B ||
      ByteAt(packed, 2) != 8 || (flags & kReserved) != 0) {
    return absl::InvalidArgumentError("gzip: not a gzip header");
  }
  size_t at = kHeaderBytes;
  if ((flags & kHasExtra) != 0) {
    if (packed.size() < at + 2) return CutShort();
    at += 2 + (ByteAt(packed, at) | size_t{ByteAt(packed, at + 1)} << 8);
  }
  for (const uint8_t text : {kHasName, kHasComment}) {
    if ((flags & text) == 0) continue;
    const size_t end = packed.find('\0', at);
    if (end == absl::string_view::npos) return CutShort();
    at = end + 1;
  }
  if ((flags & kHasHeaderCrc) != 0) at += 2;
  if (packed.size() < at) return CutShort();
  packed.remove_prefix(at);
  return absl::OkStatus();
}

// Unpacks one deflate stream at the start of `packed`, takes it off, and
// appends what comes out.
absl::Status Inflate(absl::string_view& packed, uint64_t max_bytes,
                     std::string& text) {
  zlib::inflate_stream stream;
  zlib::z_params params;
  params.next_in = packed.data();
  params.avail_in = packed.size();
  boost::system::error_code error;
  while (error != zlib::error::end_of_stream) {
    const size_t begin = text.size();
    text.resize(begin + kStepBytes);
    params.next_out = text.data() + begin;
    params.avail_out = kStepBytes;
    stream.write(params, zlib::Flush::sync, error);
    text.resize(begin + kStepBytes - params.avail_out);
    if (text.size() > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the body unpacks to more than ", max_bytes, " bytes"));
    }
    if (error == zlib::error::need_buffers) return CutShort();
    if (error && error != zlib::error::end_of_stream) {
      return absl::InvalidArgumentError("gzip: the packed data is broken");
    }
    if (!error && params.avail_in == 0 && params.avail_out > 0) {
      return CutShort();
    }
  }
  packed.remove_prefix(packed.size() - params.avail_in);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> Gunzip(absl::string_view packed,
                                   uint64_t max_bytes) {
  std::string text;
  do {
    const size_t begin = text.size();
    RETURN_IF_ERROR(SkipHeader(packed));
    RETURN_IF_ERROR(Inflate(packed, max_bytes, text));
    if (packed.size() < kTrailerBytes) return CutShort();
    boost::crc_32_type crc;
    crc.process_bytes(text.data() + begin, text.size() - begin);
    if (crc.checksum() != Uint32At(packed, 0) ||
        static_cast<uint32_t>(text.size() - begin) != Uint32At(packed, 4)) {
      return absl::InvalidArgumentError("gzip: the checksum is wrong");
    }
    packed.remove_prefix(kTrailerBytes);
  } while (!packed.empty());
  return text;
}

}  // namespace sluice::router
