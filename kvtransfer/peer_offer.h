#ifndef KVTRANSFER_PEER_OFFER_H_
#define KVTRANSFER_PEER_OFFER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kvtransfer/control_message.h"
#include "kvtransfer/layout_manifest.h"

namespace sluice::kvtransfer {

// What one side says in a Pair call: who it is, which modes it speaks, where
// its data transports are dialled, and a fresh token for each. A value.
struct PeerOffer {
  LayoutManifest manifest;
  std::string boot_id;  // of the host's kernel; equal: same host
  uint32_t uid = 0;
  std::vector<TransferMode> modes;
  std::string shm_socket;   // abstract name; empty: no shm
  std::string shm_token;    // presented by whoever dials shm_socket
  std::string ucx_address;  // "ip:port"; empty: no ucx
  std::string ucx_token;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_PEER_OFFER_H_
