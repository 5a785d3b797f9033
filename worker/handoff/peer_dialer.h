#ifndef WORKER_HANDOFF_PEER_DIALER_H_
#define WORKER_HANDOFF_PEER_DIALER_H_

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "kvtransfer/transfer_engine.h"
#include "proto/kv.grpc.pb.h"
#include "worker/handoff/kv_links.h"

namespace sluice::worker {

struct PeerDialerOptions {
  std::vector<std::string> addresses;  // host:port, dialled as they are
  std::string dns;                     // host:port, every address is a peer
  std::string own_worker;              // our instance name
};

// Keeps a pair and its Link open to each prefill worker: the decode side dials.
// One thread per address pairs (Pair call, then the Link stream) and, when the
// link ends or the transfer engine gives the peer up, pairs again, at first at
// once, then after 50 ms doubling to 1 s.
// Names in `dns` are resolved every second; DNS that fails keeps the last set.
class PeerDialer {
 public:
  PeerDialer(PeerDialerOptions options, kvtransfer::TransferEngine& transfers,
             KvLinks& links);
  // Closes the links and joins.
  ~PeerDialer();

 private:
  void Resolve(const std::stop_token& stop);
  void Dial(const std::stop_token& stop, const std::string& address);
  // One link from its opening to its end; true if it lived for a while.
  bool FollowLink(const std::stop_token& stop, v1::Kv::Stub& stub,
                  const std::string& worker);
  void AddPeer(const std::string& address);

  const PeerDialerOptions options_;
  kvtransfer::TransferEngine& transfers_;
  KvLinks& links_;
  std::map<std::string, std::jthread> dialers_;  // resolver thread, from start
  std::jthread resolver_;
};

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_PEER_DIALER_H_
