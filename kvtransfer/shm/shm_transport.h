#ifndef KVTRANSFER_SHM_SHM_TRANSPORT_H_
#define KVTRANSFER_SHM_SHM_TRANSPORT_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/clock.h"
#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

struct ShmTransportOptions {
  const Clock* clock = &SystemClock::Get();  // outlives the transport
  // How long after a link came up its pages are entered into our page tables
  // ahead of the first read: a gigabyte takes some tenths of a second of one
  // core, which a cluster that starts has better use for.
  int64_t populate_after_ms = 0;
};

// Same host, mode pull: the reader maps the owner's sealed pool read-only and
// copies out of it. A link is a Unix socket over which both sides prove their
// tokens before the descriptor of the pool moves:
//   dialler -> owner   "SLK1" token of the owner
//   owner -> dialler   token of the dialler
//   dialler -> owner   "GO"
//   owner -> dialler   size, probe; the descriptor
//   dialler -> owner   "UP"
// The socket stays open: its hang-up means death. Transfer thread only.
class ShmTransport final : public Transport {
 public:
  // kUnavailable when no socket can be made.
  static absl::StatusOr<std::unique_ptr<ShmTransport>> Create(
      const ShmTransportOptions& options);
  ~ShmTransport() override;

  absl::Status Register(const Region& region) override;
  absl::StatusOr<LinkId> Connect(const LinkArgs& args) override;
  absl::StatusOr<OperationId> StartWrite(
      LinkId link, const DataHeader& header,
      std::vector<std::byte> payload) override;
  absl::StatusOr<OperationId> StartRead(LinkId link,
                                        std::vector<ReadPiece> pieces,
                                        ReadSink* sink) override;
  std::optional<absl::Status> Poll(OperationId operation) override;
  bool Progress(TransportEvents& events, bool may_sleep) override;
  void Close(LinkId link) override;

 private:
  enum class Step {
    kDialled,
    kWentOn,
    kExpected,
    kAnswered,
    kPassed,
    kUp,
    kDown
  };
  struct Link {
    LinkArgs args;
    Step step = Step::kExpected;
    int fd = -1;
    int64_t deadline_ms = 0;  // of the handshake; 0: none
    absl::Span<const std::byte> mapping;
    uint64_t mapped_bytes = 0;  // of them in our page tables already
    int64_t populate_at_ms = 0;
  };
  struct Read {
    OperationId id;
    LinkId link;
    std::vector<ReadPiece> pieces;
    ReadSink* sink;
    size_t next = 0;
  };
  // Accepted, but not yet matched with an expected link.
  struct Inbound {
    int fd = -1;
    int64_t deadline_ms = 0;
    std::string token;  // empty: not presented yet
  };

  explicit ShmTransport(const ShmTransportOptions& options)
      : Transport("shm", TransferMode::kPull),
        clock_(options.clock),
        populate_after_ms_(options.populate_after_ms) {}
  bool Watch(int fd);
  bool AcceptAll();
  bool ProgressInbound();
  bool Match(Inbound& inbound);
  bool ProgressLinks(TransportEvents& events);
  bool ProgressLink(LinkId id, Link& link, TransportEvents& events);
  absl::Status OnPacket(Link& link, ShmTransport::Step& step,
                        const std::string& bytes, int passed_fd);
  bool ProgressReads();
  bool PopulateSome();
  void Finish(const Read& read, const absl::Status& status);

  const Clock* const clock_;
  const int64_t populate_after_ms_;
  int listen_fd_ = -1;
  Region region_;
  uint64_t region_mapped_bytes_ = 0;
  std::map<LinkId, Link> links_;
  std::vector<Inbound> inbound_;
  std::deque<Read> reads_;
  std::vector<absl::Span<const std::byte>> turn_;  // what ProgressReads() moves
  absl::flat_hash_map<OperationId, absl::Status> finished_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_SHM_SHM_TRANSPORT_H_
