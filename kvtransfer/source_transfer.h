#ifndef KVTRANSFER_SOURCE_TRANSFER_H_
#define KVTRANSFER_SOURCE_TRANSFER_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kvtransfer/put_sender.h"
#include "kvtransfer/transfer_args.h"
#include "kvtransfer/transfer_context.h"
#include "kvtransfer/transfer_plan.h"

namespace sluice::kvtransfer {

// The source's half of one transfer: the second state table of
// kv_transfer.md section 8. Events come from the engine; messages, results
// and posted operations go out through the context. Transfer thread only.
// Ends exactly once, by its deadline plus the time operations take to end.
class SourceTransfer {
 public:
  enum class State { kWaiting, kClaimed, kSending, kDraining, kEnded };

  SourceTransfer(TransferContext* context, SendArgs args);
  ~SourceTransfer();  // CHECKs that no operation is open
  SourceTransfer(const SourceTransfer&) = delete;
  SourceTransfer& operator=(const SourceTransfer&) = delete;

  // The destination's worker is paired; `peer` is the manifest of the ticket.
  void OnPeerUp(const LayoutManifest& peer);
  void OnPeerLost(const absl::Status& why);
  void OnOffer(const RectangleOffer& offer);
  void OnAttachment(std::string bytes);
  void OnCancel(const absl::Status& cause);
  // `link`: our way to send in the granted mode, if it has one.
  void OnGrant(const Grant& grant, const std::optional<DataLink>& link);
  void OnRefuse(const Refuse& refuse);
  void OnOutcome(const Outcome& outcome);
  void OnStop(const Stop& stop);
  void OnAck(const Ack& ack);
  void OnCredit(const Credit& credit);

  // Deadline and re-sends; at least every 10 ms while not ended.
  void OnTick();
  // A bounded amount of posting and polling. True: there is more to do now.
  bool Work();

  const TransferId& id() const { return args_.ticket.transfer_id; }
  const std::string& peer() const { return args_.ticket.worker; }
  uint64_t target_generation() const { return args_.ticket.generation; }
  State state() const { return state_; }
  bool ended() const { return state_ == State::kEnded; }
  // Ended, but its attachment is not acknowledged yet.
  bool lingers() const { return ended() && attachment_timer_.armed(); }
  bool bound() const { return bound_; }
  // What it put may land yet, though it is over.
  bool unproven() const { return unproven_; }
  const TransferResult& result() const { return result_; }

 private:
  struct Stream {
    StreamPlan plan;
    uint32_t next_index = 0;
    uint32_t acked_index = 0;
    uint64_t acked_bytes = 0;
    bool last_queued = false;
  };
  using Pending = PendingRectangle;
  // A rectangle whose data messages are going out.
  struct Sending {
    Pending pending;
    RectanglePlan plan;
    uint64_t offset = 0;
  };

  void MaybeClaim();
  void SendClaim();
  void CollectRectangles();
  void QueueRectangle(const Rectangle& rectangle);
  void MarkLast();
  bool PostNext();
  bool PostMessages();
  bool PostPut(Pending pending, RectanglePlan& plan);
  absl::Status CheckGrant(const Grant& grant) const;
  bool Drained() const;
  void FinishRectangle(Pending pending);
  std::vector<std::byte> Gather(const RectanglePlan& plan, uint64_t offset,
                                uint64_t size) const;
  void ComputeDigests(RectanglePlan& plan, RectangleDone& done) const;
  bool SumAppended(const RectanglePlan& plan,
                   std::vector<uint64_t>& digests) const;
  uint32_t ReadyTokens(uint32_t layer) const;
  uint64_t AckedBytes() const;
  void PollOperations();
  void ResendRectangles();
  void MaybeSendAttachment();
  const std::byte* SourceBytes(const RectanglePlan& plan,
                               const RectanglePlan::Run& run) const;

  void Drain(const absl::Status& reason);
  void MaybeFinishDraining();
  // Before anything was posted.
  void EndUnposted(const absl::Status& reason, bool tell_destination);
  void End(const absl::Status& status);

  TransferContext* const context_;
  SendArgs args_;
  const int64_t started_us_;
  const int64_t deadline_ms_;
  State state_ = State::kWaiting;
  bool bound_ = false;
  bool peer_lost_ = false;
  std::vector<Stream> streams_;
  std::vector<uint32_t> blocks_;         // by position; 0: not offered yet
  std::vector<uint32_t> final_tokens_;   // per layer
  std::vector<uint32_t> queued_tokens_;  // per layer
  Grant grant_;
  std::optional<DataLink> link_;
  std::deque<Pending> queue_;
  std::optional<Sending> sending_;
  std::deque<Pending> unacked_;
  std::vector<OperationId> operations_;
  std::optional<PutSender> puts_;
  bool unproven_ = false;
  uint64_t max_rectangle_bytes_ = kMaxRectangleBytes;
  uint64_t posted_bytes_ = 0;
  uint64_t payload_bytes_ = 0;   // of all streams
  int64_t all_offered_us_ = -1;  // when the last KV was; -1: not yet
  absl::Status reason_;          // while draining
  bool endpoint_failed_ = false;
  int64_t drain_deadline_ms_ = 0;
  ResendTimer claim_timer_;
  ResendTimer rectangle_timer_;
  ResendTimer attachment_timer_;
  std::optional<std::string> attachment_;
  bool attachment_acked_ = false;
  TransferResult result_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_SOURCE_TRANSFER_H_
