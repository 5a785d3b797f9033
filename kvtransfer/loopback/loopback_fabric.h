#ifndef KVTRANSFER_LOOPBACK_LOOPBACK_FABRIC_H_
#define KVTRANSFER_LOOPBACK_LOOPBACK_FABRIC_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "kvtransfer/transfer_engine.h"
#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

class LoopbackTransport;

// One thing that travels: a control message, a data message, a read, or a put
// (all pieces of one).
struct LoopbackEvent {
  uint64_t number = 0;  // from 0, in order of sending
  std::string from;
  std::string to;
  std::string kind;  // "claim", ..., "data", "read", "put"
};

// What happens to it. Default: arrives at once, once, intact.
struct LoopbackFate {
  bool drop = false;
  bool duplicate = false;
  int64_t delay_ms = 0;   // later ones overtake it
  bool flip_bit = false;  // data, reads and puts: one seeded bit
  // Puts. A dropped one ends in error; a repeated one lands twice before it is
  // flushed.
  bool tear = false;    // a seeded first part lands at once
  int64_t late_ms = 0;  // ends in error when due, and lands so much later
};

// What keeps a put from landing (kv_transfer.md section 7). Until then what was
// posted lands, whoever died and whatever was closed.
enum class PutFence {
  kClose,   // the target's close, when it has completed: own queue pairs
  kDeath,   // the source's death: it writes by mapping
  kRegion,  // the target's deregistration only: shared queue pairs
};

// A network of workers inside one test: control links and data transports,
// with faults decided event by event and everything else in order. One
// thread; time is the clock's. Outlives the engines attached to it.
class LoopbackFabric {
 public:
  using Judge = std::function<LoopbackFate(const LoopbackEvent&)>;

  LoopbackFabric(const Clock* clock, uint64_t seed);
  ~LoopbackFabric();

  void SetJudge(Judge judge) { judge_ = std::move(judge); }

  // The ends of worker `worker`; the control link lives as long as we do.
  std::unique_ptr<Transport> MakeTransport(const std::string& worker,
                                           TransferMode mode);
  ControlLink* MakeControl(const std::string& worker);

  // Delivers control messages for `worker` to `engine` from now on.
  void Attach(const std::string& worker, TransferEngine* engine);
  // Pairs two attached workers, `dialler` dialling, and opens their link.
  absl::Status Pair(const std::string& dialler, const std::string& answerer);
  // What a SIGKILL looks like to the others: its links end, nothing of it is
  // under way any more. Its engine gets nothing from now on.
  void Kill(const std::string& worker);

  // Of all put links; a close takes `close_ms`.
  void SetPutFence(PutFence fence, int64_t close_ms) {
    fence_ = fence;
    close_ms_ = close_ms;
  }
  // Who owns the byte at an offset of a worker's region, by the test's ledger;
  // staging slots the fabric knows from the Grants it carries. What lands must
  // find the owner it was posted to.
  using Owner =
      std::function<uint64_t(const std::string& worker, uint64_t offset)>;
  void SetOwner(Owner owner) { owner_ = std::move(owner); }
  // Puts that landed in memory that had been handed to somebody else.
  uint64_t stray_puts() const { return stray_puts_; }
  // Puts that landed after their target's end was closed, and that a fence
  // kept from landing.
  uint64_t late_puts() const { return late_puts_; }
  uint64_t fenced_puts() const { return fenced_puts_; }

  // Delivers the control messages that are due. False: there were none.
  bool Deliver();
  bool idle() const {
    return control_.empty() && data_.empty() && puts_.empty();
  }
  uint64_t num_events() const { return next_event_; }

 private:
  friend class LoopbackTransport;
  class Control;
  struct ControlFlight {
    int64_t due_ms;
    std::string from;
    std::string to;
    ControlMessage message;
  };
  struct DataFlight {
    int64_t due_ms;
    LinkId to_link;
    DataHeader header;
    std::vector<std::byte> payload;
  };

  struct PutFlight {
    int64_t due_ms;
    OperationId operation;
    LinkId to_link;  // of the target's end
    LoopbackTransport* target;
    uint64_t remote_offset;
    std::vector<std::byte> bytes;
    std::vector<uint64_t> owners;  // of the first and last byte
  };

  void PostPut(OperationId operation, LinkId to_link, LoopbackTransport* target,
               const std::vector<PutPiece>& pieces, const LoopbackFate& fate);
  void LandPuts();
  void Land(const PutFlight& flight);
  // Nothing of these lands any more; their operations fail.
  void DropPuts(const std::function<bool(const PutFlight&)>& which);
  std::vector<uint64_t> OwnersOf(const std::string& worker, uint64_t offset,
                                 uint64_t size) const;
  void NoteSlots(const std::string& from, const ControlMessage& message);

  LoopbackFate Decide(const std::string& from, const std::string& to,
                      const std::string& kind);
  void SendControl(const std::string& from, const std::string& to,
                   const ControlMessage& message);
  void FlipBit(std::vector<std::byte>& bytes);

  const Clock* const clock_;
  std::mt19937_64 random_;
  Judge judge_;
  uint64_t next_event_ = 0;
  std::map<std::string, std::unique_ptr<Control>> controls_;
  std::map<std::string, TransferEngine*> engines_;
  std::vector<LoopbackTransport*> transports_;
  std::vector<ControlFlight> control_;
  std::vector<DataFlight> data_;
  std::vector<PutFlight> puts_;
  PutFence fence_ = PutFence::kClose;
  int64_t close_ms_ = 0;
  Owner owner_;
  struct SlotOwner {
    uint64_t size_bytes = 0;
    uint64_t owner = 0;
  };
  std::map<std::pair<std::string, uint64_t>, SlotOwner> slots_;
  std::set<OperationId> lost_puts_;    // part of it never lands
  std::map<LinkId, uint64_t> writer_;  // of a target's link: incarnation
  std::set<uint64_t> dead_;            // incarnations
  uint64_t stray_puts_ = 0;
  uint64_t late_puts_ = 0;
  uint64_t fenced_puts_ = 0;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_LOOPBACK_LOOPBACK_FABRIC_H_
