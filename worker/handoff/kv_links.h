#ifndef WORKER_HANDOFF_KV_LINKS_H_
#define WORKER_HANDOFF_KV_LINKS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "kvtransfer/transfer_engine.h"
#include "proto/kv.pb.h"

namespace sluice::worker {

// The writing end of one open Link stream. Send() queues and returns; called
// from any thread until KvLinks forgot it.
class LinkWriter {
 public:
  virtual ~LinkWriter() = default;
  virtual void Send(v1::KvMessage message) = 0;
  // Ends the stream; no effect when it has ended.
  virtual void Close() = 0;
};

// Which peer is reached by which Link stream, whoever opened it. Routes the
// transfer engine's control messages; a message to a peer without a stream is
// dropped (the protocol sends again). Any thread.
class KvLinks final : public kvtransfer::ControlLink {
 public:
  // Set once, before any stream opens; borrowed.
  void set_transfers(kvtransfer::TransferEngine* transfers) {
    transfers_ = transfers;
  }

  // Makes `writer` the stream to `peer`; an older one is closed.
  void Open(const std::string& peer, std::shared_ptr<LinkWriter> writer);
  // `writer` has ended; tells the transfer engine unless a newer one took over.
  void Ended(const std::string& peer, const LinkWriter* writer,
             const absl::Status& status);
  // Hands a received message on. kInvalidArgument for one that is malformed.
  absl::Status Receive(const std::string& peer, const v1::KvMessage& message);
  bool IsOpen(const std::string& peer);
  // Closes every stream.
  void CloseAll();

  void Send(const std::string& peer,
            const kvtransfer::ControlMessage& message) override;

 private:
  kvtransfer::TransferEngine* transfers_ = nullptr;
  Mutex mu_;
  absl::flat_hash_map<std::string, std::shared_ptr<LinkWriter>> writers_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice::worker

#endif  // WORKER_HANDOFF_KV_LINKS_H_
