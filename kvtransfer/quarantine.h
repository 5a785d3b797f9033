#ifndef KVTRANSFER_QUARANTINE_H_
#define KVTRANSFER_QUARANTINE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kvtransfer/transfer_context.h"

namespace sluice::kvtransfer {

// What is left of a put transfer that ended without Completed after its Grant:
// memory that its source may still write.
struct QuarantinedTransfer {
  TransferId id;
  std::string source;       // worker
  uint64_t generation = 0;  // of the source
  LinkId link = 0;          // that its writes come through
  bool link_open = true;
  uint32_t num_blocks = 0;
  std::vector<uint32_t> slots;  // of staging
  // Of the Stop to be repeated; empty: none was sent, the source has ended.
  std::string stop_cause;
};

// The rules of kv_transfer.md section 7: nothing here is given back for a lapse
// of time. An entry waits for
//   - the source's word that nothing of it is or will be under way (Stopped, or
//     Abort with stopped set), from the generation that was granted; or
//   - the transport's, that its link is fenced.
// Time only escalates: a Stop unanswered for stop_timeout_ms loses the peer,
// which closes the link. When a lost peer of the same generation is paired
// again it is asked again. Transfer thread only.
class Quarantine {
 public:
  explicit Quarantine(TransferContext* context) : context_(context) {}

  void Add(QuarantinedTransfer transfer);
  // What Work() does when transfer `id` is released, once; it is in here.
  void SetOnReleased(const TransferId& id, std::function<void()> on_released);

  void OnStopped(const TransferId& id, const std::string& source,
                 uint64_t generation);
  // The source has ended, but cannot say that nothing lands.
  void OnUnproven(const TransferId& id, const std::string& source,
                  uint64_t generation);
  void OnFenced(LinkId link, Fence fence);
  void OnPeerUp(const std::string& worker, uint64_t generation);
  void OnPeerLost(const std::string& worker);
  // Stop again, escalation.
  void OnTick();
  // Gives back what is fenced. A transfer reports its end before.
  void Work();

  bool empty() const { return entries_.empty(); }
  uint64_t num_blocks() const;
  uint64_t num_slots() const;

 private:
  struct Entry {
    QuarantinedTransfer transfer;
    int64_t since_us = 0;
    int64_t escalate_ms = 0;
    ResendTimer stop_timer;
    std::optional<Fence> fence;
    std::function<void()> on_released;
  };
  Entry* Find(const TransferId& id);
  Entry* FindOf(const TransferId& id, const std::string& source,
                uint64_t generation);
  void Count();

  TransferContext* const context_;
  std::vector<Entry> entries_;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_QUARANTINE_H_
