#ifndef KVTRANSFER_LOOPBACK_LOOPBACK_FABRIC_H_
#define KVTRANSFER_LOOPBACK_LOOPBACK_FABRIC_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/clock.h"
#include "kvtransfer/transfer_engine.h"
#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

class LoopbackTransport;

// One thing that travels: a control message, a data message, or a read.
struct LoopbackEvent {
  uint64_t number = 0;  // from 0, in order of sending
  std::string from;
  std::string to;
  std::string kind;  // "claim", ..., "data", "read"
};

// What happens to it. Default: arrives at once, once, intact.
struct LoopbackFate {
  bool drop = false;
  bool duplicate = false;
  int64_t delay_ms = 0;   // later ones overtake it
  bool flip_bit = false;  // data and reads: one seeded bit
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

  // Delivers the control messages that are due. False: there were none.
  bool Deliver();
  bool idle() const { return control_.empty() && data_.empty(); }
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
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_LOOPBACK_LOOPBACK_FABRIC_H_
