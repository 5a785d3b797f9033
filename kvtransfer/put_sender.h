#ifndef KVTRANSFER_PUT_SENDER_H_
#define KVTRANSFER_PUT_SENDER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "kvtransfer/transfer_context.h"

namespace sluice::kvtransfer {

// A rectangle of a send and the stream it is of.
struct PendingRectangle {
  size_t stream_index = 0;
  RectangleDone done;
};

// The one-sided writes of one send: in place, or gathered into staging slots
// that it has credit for. All go over the link of the Grant. Transfer thread
// only.
class PutSender {
 public:
  PutSender(TransferContext* context, const DataLink& link, const Grant& grant);
  ~PutSender();  // CHECKs that no operation is open
  PutSender(const PutSender&) = delete;
  PutSender& operator=(const PutSender&) = delete;

  bool staged() const { return !slots_.empty(); }
  // Room for one more rectangle; staged: a slot with credit.
  bool CanPost() const;
  // Writes a rectangle in place.
  absl::Status Post(PendingRectangle rectangle, std::vector<PutPiece> pieces);
  // Writes it, gathered, into a slot, which `rectangle` is made to name.
  absl::Status PostStaged(PendingRectangle rectangle,
                          std::vector<std::byte> bytes);

  // The slot of that rectangle is free; of any other: no effect.
  void OnCredit(const Credit& credit);
  // The same for all rectangles of a stream below `ack.next_index`.
  void OnAck(const Ack& ack);

  // Polls operations. Not OK: the first that failed.
  absl::Status Poll();
  // The next rectangle, in order of posting, whose bytes are proven to have
  // landed.
  std::optional<PendingRectangle> TakeLanded();

  // No operation is open.
  bool idle() const { return num_open_ == 0; }
  // An operation ended in error: its bytes may land yet.
  bool unproven() const { return !failed_.ok(); }

 private:
  struct InFlight {
    PendingRectangle rectangle;
    std::vector<std::byte> buffer;  // staged
    std::optional<OperationId> operation;
  };
  struct Slot {
    StagingSlot where;
    std::optional<RectangleDone> holds;  // no credit until it is verified
  };
  absl::Status Start(InFlight in_flight, std::vector<PutPiece> pieces);

  TransferContext* const context_;
  const DataLink link_;
  std::vector<Slot> slots_;
  std::deque<InFlight> in_flight_;
  size_t num_open_ = 0;
  absl::Status failed_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_PUT_SENDER_H_
