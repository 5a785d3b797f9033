#ifndef KVTRANSFER_TRANSPORT_H_
#define KVTRANSFER_TRANSPORT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvtransfer/control_message.h"
#include "kvtransfer/region_table.h"

namespace sluice::kvtransfer {

using LinkId = uint64_t;       // a data connection to one peer generation
using OperationId = uint64_t;  // never reused

// Header of one stream message; the payload follows. `offset` counts in the
// wire order of the rectangle (transfer_plan.h).
struct DataHeader {
  TransferId transfer_id;
  uint64_t from_generation = 0;
  uint64_t to_generation = 0;
  uint32_t source_rank = 0;
  uint32_t target_rank = 0;
  uint32_t index = 0;
  Rectangle rectangle;
  uint64_t offset = 0;
};

// Where a transport hands over what arrives, always inside Progress().
class TransportEvents {
 public:
  virtual ~TransportEvents() = default;
  // The link is proven: authenticated on both ends and probed.
  virtual void OnLinkUp(LinkId link) = 0;
  // It never comes back; Close() it. `status` says why.
  virtual void OnLinkDown(LinkId link, const absl::Status& status) = 0;
  // One stream message. `payload` is valid during the call only.
  virtual void OnData(LinkId link, const DataHeader& header,
                      absl::Span<const std::byte> payload) = 0;
  // Put, at the side written to: nothing that the peer wrote through this link
  // lands any more. Said of links we closed, by what this wire guarantees:
  // closing was enough and has completed, the peer's process is known to be
  // gone, or the region was deregistered. Maybe never.
  virtual void OnFenced(LinkId link, Fence fence) {}
};

// A piece of a peer's region to read, and who takes the bytes.
struct ReadPiece {
  uint64_t remote_offset = 0;  // in the peer's region
  uint64_t size_bytes = 0;
};

// A piece of our memory to write into a peer's region.
struct PutPiece {
  const std::byte* from = nullptr;
  uint64_t size_bytes = 0;
  uint64_t remote_offset = 0;  // in the peer's region
};

// Takes pieces in order, on the transfer thread.
class ReadSink {
 public:
  virtual ~ReadSink() = default;
  // `bytes` is piece `piece` of the read, valid during the call only and
  // possibly changing under it: the peer owns that memory. `next` is where the
  // piece after it lies, to be prefetched only; null: unknown.
  virtual void OnPiece(size_t piece, absl::Span<const std::byte> bytes,
                       const std::byte* next) = 0;
  // OnPiece() for each of the pieces from `first` on: for a transport that has
  // several at hand.
  virtual void OnPieces(size_t first,
                        absl::Span<const absl::Span<const std::byte>> pieces) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      OnPiece(first + i, pieces[i],
              i + 1 < pieces.size() ? pieces[i + 1].data() : nullptr);
    }
  }
};

// One end of one data connection to be.
struct LinkArgs {
  std::string peer;  // for texts
  // We dial `address` and present `peer_token`; the peer answers `own_token`.
  // Else the peer dials us with `own_token` and we answer `peer_token`.
  bool dial = false;
  std::string address;
  std::string own_token;
  std::string peer_token;
  // Least size of the peer's region, for transports that map it.
  uint64_t peer_region_bytes = 0;
};

// A wire. One thread at a time; nothing here blocks. `mode` says how bytes
// move; every operation returned must be polled to a final status before the
// transport is destroyed; there is no cancel, Close() ends operations.
class Transport {
 public:
  Transport(std::string name, TransferMode mode)
      : name_(std::move(name)), mode_(mode) {}
  virtual ~Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  const std::string& name() const { return name_; }  // "shm", "ucx", ...
  TransferMode mode() const { return mode_; }
  // Where peers dial us; empty: we cannot be dialled. Fixed after creation.
  const std::string& address() const { return address_; }
  // Readable when Progress() has something to do; -1: always poll.
  int event_fd() const { return event_fd_; }

  // Makes `region` readable for peers (pull), or writable (put); the region
  // outlives us.
  virtual absl::Status Register(const Region& region) = 0;
  // Starts one end; OnLinkUp() or OnLinkDown() follows within 3 s.
  virtual absl::StatusOr<LinkId> Connect(const LinkArgs& args) = 0;
  // Sends one message; the payload is copied or kept by the transport.
  // kUnavailable when the link is down, kUnimplemented in another mode.
  virtual absl::StatusOr<OperationId> StartWrite(
      LinkId link, const DataHeader& header,
      std::vector<std::byte> payload) = 0;
  // Reads pieces of the peer's region into `sink`, which must outlive the
  // operation. kInvalidArgument for a piece outside the region.
  virtual absl::StatusOr<OperationId> StartRead(LinkId link,
                                                std::vector<ReadPiece> pieces,
                                                ReadSink* sink) = 0;
  // Writes pieces into the peer's region (put). The pieces' memory must stay
  // until the final status. OK only after a flush has proven that every byte
  // landed; any other status proves nothing: bytes may land yet.
  // kInvalidArgument for a piece outside the region.
  virtual absl::StatusOr<OperationId> StartPut(LinkId link,
                                               std::vector<PutPiece> pieces) {
    return absl::UnimplementedError("no one-sided writes over " + name_);
  }
  // Forbids peers to write into our region (put), for good, where an adapter
  // writes; OnFenced() follows for its links.
  virtual void Deregister() {}
  // Final status once there is one (then the id is forgotten), else nullopt.
  virtual std::optional<absl::Status> Poll(OperationId operation) = 0;
  // Moves everything forward by a bounded amount of work. `may_sleep`: arm
  // event_fd(). True: call again before sleeping.
  virtual bool Progress(TransportEvents& events, bool may_sleep) = 0;
  // Ends the link; its operations get a final status in later Progress()
  // calls, a mapped region is dropped when the last read ended.
  virtual void Close(LinkId link) = 0;

 protected:
  // Link and operation ids are unique in the process.
  static uint64_t NewId() {
    static std::atomic<uint64_t> last{0};
    return ++last;
  }

  std::string address_;
  int event_fd_ = -1;

 private:
  const std::string name_;
  const TransferMode mode_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_TRANSPORT_H_
