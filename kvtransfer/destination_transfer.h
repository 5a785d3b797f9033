#ifndef KVTRANSFER_DESTINATION_TRANSFER_H_
#define KVTRANSFER_DESTINATION_TRANSFER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kvtransfer/stream_coverage.h"
#include "kvtransfer/transfer_args.h"
#include "kvtransfer/transfer_context.h"
#include "kvtransfer/transfer_plan.h"

namespace sluice::kvtransfer {

// The destination's half of one transfer: the first state table of
// kv_transfer.md section 8. In pull and stream mode only it writes the blocks
// of its ticket, on the transfer thread, and only while Open. In put mode its
// source writes them, or the staging slots lent to it: when it ends without
// Completed and the source has not said that nothing lands any more, both are
// left to the quarantine. Terminal at once when a table row says so; `ended`
// when its own reads are final too. Transfer thread only.
class DestinationTransfer {
 public:
  enum class State { kTicketed, kOpen, kTerminal };

  // What a claim is judged by: the claiming worker as paired now.
  struct Claimant {
    std::string worker;
    const LayoutManifest* manifest = nullptr;
    DataLink link;
  };

  DestinationTransfer(TransferContext* context, const Ticket& ticket,
                      ReceiveArgs args);
  ~DestinationTransfer();  // CHECKs that no operation is open
  DestinationTransfer(const DestinationTransfer&) = delete;
  DestinationTransfer& operator=(const DestinationTransfer&) = delete;

  void OnClaim(const Claim& claim, const Claimant& claimant);
  void OnRectangleDone(const std::string& worker, const RectangleDone& done);
  void OnData(LinkId link, const DataHeader& header,
              absl::Span<const std::byte> payload);
  void OnStopped(const std::string& worker);
  void OnAbort(const std::string& worker, const Abort& abort);
  void OnAttachment(const std::string& worker, const Attachment& attachment);
  void OnCancel(const absl::Status& cause);
  // `keep_reading`: the link's region stays readable for a while.
  void OnPeerLost(const absl::Status& why, bool keep_reading);

  // Deadline and re-sends; at least every 10 ms while not ended.
  void OnTick();
  // Polls reads, and reports the end when they are final.
  void Work();

  const TransferId& id() const { return ticket_.transfer_id; }
  // The bound source, or the expected one before any claim.
  const std::string& peer() const {
    return source_.empty() ? args_.expected_source : source_;
  }
  State state() const { return state_; }
  bool open() const { return state_ == State::kOpen; }
  bool ended() const { return reported_; }
  bool reads_link(LinkId link) const {
    return !reported_ && link_.has_value() && link_->link == link;
  }
  // Ended, but still has something to re-send or to wait for.
  bool lingers() const {
    return reported_ && (stop_timer_.armed() || awaits_attachment());
  }
  bool awaits_attachment() const {
    return reported_ && args_.on_attachment != nullptr;
  }
  const TransferResult& result() const { return result_; }

 private:
  struct Receiving;
  struct Stream;

  // kResourceExhausted: not now.
  absl::Status Accept(const Claim& claim, const Claimant& claimant);
  absl::Status LendSlots(const std::vector<StreamPlan>& plans);
  void ForgetAppended();
  void SendGrant();
  Stream* FindStream(uint32_t source_rank, uint32_t target_rank);
  absl::StatusOr<Receiving*> FindOrStart(Stream& stream, uint32_t index,
                                         const Rectangle& rectangle);
  absl::Status Announce(Stream& stream, const RectangleDone& done);
  absl::Status StartRead(Stream& stream, Receiving& receiving);
  absl::Status Place(Stream& stream, const DataHeader& header,
                     absl::Span<const std::byte> payload);
  absl::Status TakePut(Receiving& receiving);
  void PlaceBytes(Receiving& receiving, uint64_t offset,
                  absl::Span<const std::byte> payload);
  void AddSplitRuns(Receiving& receiving);
  absl::Status Verify(Stream& stream, Receiving& receiving);
  void FinishIfVerified(Stream& stream, Receiving& receiving);
  void SendAck(Stream& stream);
  void SendCredit(const RectangleDone& done);
  bool AllAnnounced() const;
  void PollReads();
  std::optional<absl::Status> PollRead(Receiving& receiving);
  std::byte* TargetBytes(const RectanglePlan& plan,
                         const RectanglePlan::Run& run) const;
  std::byte* TargetAt(const Copy& copy) const;

  void Fail(const absl::Status& status, bool tell_source);
  void LeaveQuarantined(bool stop_sent);
  void Enter(const absl::Status& status);
  void MaybeReport();
  void ReportEnd();
  void GiveUpAttachment(const absl::Status& why);
  void CountLate(const char* kind);

  TransferContext* const context_;
  Ticket ticket_;
  ReceiveArgs args_;
  const int64_t started_us_;
  const int64_t deadline_ms_;
  State state_ = State::kTicketed;
  std::string source_;
  uint64_t source_generation_ = 0;
  std::optional<Claim> claim_;
  std::optional<DataLink> link_;
  TransferMode mode_ = TransferMode::kPull;
  std::vector<std::unique_ptr<Stream>> streams_;
  uint64_t payload_bytes_ = 0;                       // of all of them
  std::vector<std::unique_ptr<Receiving>> dropped_;  // reads still to end
  std::vector<uint32_t> slots_;  // of staging, as the Grant lists them
  bool source_stopped_ = false;  // it proved that nothing lands any more
  bool peer_lost_ = false;
  absl::Status lost_why_;
  ResendTimer stop_timer_;
  ResendTimer ack_timer_;
  std::string stop_cause_;
  bool reported_ = false;
  TransferResult result_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_DESTINATION_TRANSFER_H_
