#ifndef WORKER_HANDOFF_PEER_DIALER_H_
#define WORKER_HANDOFF_PEER_DIALER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "kvtransfer/transfer_engine.h"
#include "proto/kv.grpc.pb.h"
#include "worker/handoff/kv_links.h"

namespace sluice::worker {

// Every address of a host:port; empty when the name service has none or fails.
std::vector<std::string> ResolveAll(const std::string& host_port);

struct PeerDialerOptions {
  std::vector<std::string> addresses;  // host:port, dialled as they are
  std::string dns;                     // host:port, every address is a peer
  std::string own_worker;              // our instance name
  std::function<std::vector<std::string>(const std::string& host_port)>
      resolve = ResolveAll;  // of `dns`; may block
  uint32_t resolve_every_ms = 1000;
};

// Keeps a pair and its Link open to each prefill worker: the decode side dials.
// One thread per address pairs (Pair call, then the Link stream) and, when the
// link ends or the transfer engine gives the peer up, pairs again, at first at
// once, then after 50 ms doubling to 250 ms.
// `dns` is resolved every second: an address that it no longer names is given
// up once it has no link; DNS that fails or is empty keeps the last set.
class PeerDialer {
 public:
  PeerDialer(PeerDialerOptions options, kvtransfer::TransferEngine& transfers,
             KvLinks& links);
  // Closes the links and joins.
  ~PeerDialer();

  // Dialled now, sorted. Any thread.
  std::vector<std::string> addresses() const;

 private:
  // One address.
  struct Dialer {
    bool from_dns = false;
    std::atomic<bool> linked{false};
    std::jthread thread;
  };

  void Resolve(const std::stop_token& stop);
  void DropUnnamed(const std::vector<std::string>& named);
  void Dial(const std::stop_token& stop, const std::string& address,
            std::atomic<bool>& linked);
  // One link from its opening to its end; true if it lived for a while.
  bool FollowLink(const std::stop_token& stop, v1::Kv::Stub& stub,
                  const std::string& worker);
  void AddPeer(const std::string& address, bool from_dns);

  const PeerDialerOptions options_;
  kvtransfer::TransferEngine& transfers_;
  KvLinks& links_;
  mutable Mutex mu_;
  std::map<std::string, std::unique_ptr<Dialer>> dialers_ ABSL_GUARDED_BY(mu_);
  std::jthread resolver_;
};

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_PEER_DIALER_H_
