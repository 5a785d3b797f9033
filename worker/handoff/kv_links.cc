#include "worker/handoff/kv_links.h"

#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "kvtransfer/wire/kv_wire.h"

namespace sluice::worker {

void KvLinks::Open(const std::string& peer,
                   std::shared_ptr<LinkWriter> writer) {
  std::shared_ptr<LinkWriter> old;
  {
    MutexLock lock(mu_);
    old = std::exchange(writers_[peer], std::move(writer));
  }
  if (old != nullptr) old->Close();
  transfers_->OnLinkUp(peer);
}

void KvLinks::Ended(const std::string& peer, const LinkWriter* writer,
                    const absl::Status& status) {
  {
    MutexLock lock(mu_);
    const auto it = writers_.find(peer);
    if (it == writers_.end() || it->second.get() != writer) return;
    writers_.erase(it);
  }
  transfers_->OnLinkDown(peer, status);
}

absl::Status KvLinks::Receive(const std::string& peer,
                              const v1::KvMessage& message) {
  ASSIGN_OR_RETURN(kvtransfer::ControlMessage native,
                   kvtransfer::FromProto(message));
  transfers_->OnMessage(peer, std::move(native));
  return absl::OkStatus();
}

bool KvLinks::IsOpen(const std::string& peer) {
  MutexLock lock(mu_);
  return writers_.contains(peer);
}

void KvLinks::CloseAll() {
  std::vector<std::shared_ptr<LinkWriter>> all;
  {
    MutexLock lock(mu_);
    for (auto& [peer, writer] : writers_) all.push_back(writer);
  }
  for (const std::shared_ptr<LinkWriter>& writer : all) writer->Close();
}

void KvLinks::Send(const std::string& peer,
                   const kvtransfer::ControlMessage& message) {
  std::shared_ptr<LinkWriter> writer;
  {
    MutexLock lock(mu_);
    const auto it = writers_.find(peer);
    if (it == writers_.end()) return;
    writer = it->second;
  }
  writer->Send(kvtransfer::ToProto(message));
}

}  // namespace sluice::worker
