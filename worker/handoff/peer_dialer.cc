#include "worker/handoff/peer_dialer.h"

#include <grpcpp/grpcpp.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/live_count.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/thread.h"
#include "kvtransfer/wire/kv_wire.h"
#include "proto/kv.grpc.pb.h"
#include "worker/handoff/kv_service.h"
#include "worker/handoff/link_reactor.h"

namespace sluice::worker {
namespace {

using std::chrono::milliseconds;

// A peer that is away for shorter than kEager may be starting: it is paired
// within milliseconds of listening.
constexpr milliseconds kEager(3000);
constexpr milliseconds kEagerPause(20);
constexpr milliseconds kFirstPause(50);
// With the channel's own pause, a peer that came back is paired within a second
// of listening.
constexpr milliseconds kLongestPause(250);
constexpr int kLongestReconnectMs = 200;
// A link that lived this long earns an immediate retry.
constexpr milliseconds kLived(1000);
constexpr milliseconds kLinkedElsewhere(1000);
constexpr milliseconds kLookEvery(250);
constexpr milliseconds kPairTimeout(3000);
constexpr milliseconds kGoneTimeout(5000);

// Sleeps, at most until a stop is requested.
void Pause(const std::stop_token& stop, milliseconds time) {
  std::mutex mu;
  std::condition_variable_any wake;
  std::unique_lock<std::mutex> lock(mu);
  wake.wait_for(lock, stop, time, [] { return false; });
}

using ClientLink = grpc::ClientBidiReactor<v1::KvMessage, v1::KvMessage>;

// The dialled end of a Link.
class DialledLink final : public LinkReactor<ClientLink> {
 public:
  DialledLink(KvLinks& links, std::string peer, const LiveCount& count)
      : LinkReactor(links, std::move(peer)), member_(count) {}

  void Run(v1::Kv::Stub& stub, const std::string& own_worker) {
    context_.AddMetadata(kLinkWorkerKey, own_worker);
    stub.async()->Link(&context_, this);
    // Held for writes that come from other threads.
    AddHold();
    Begin();
    StartCall();
  }

  void OnDone(const grpc::Status& status) override {
    // Whoever waits may go on while this thread drops the last reference.
    const std::shared_ptr<void> keep = shared_from_this();
    Release(FromGrpcStatus(status));
    MutexLock lock(mu_);
    done_ = true;
    ended_.NotifyAll();
  }

  // True once the call is over; waits at most `timeout`.
  bool WaitUntilDone(milliseconds timeout) {
    MutexLock lock(mu_);
    if (!done_) ended_.WaitFor(mu_, timeout);
    return done_;
  }

 private:
  void CancelCall() override { context_.TryCancel(); }
  void EndCall(const absl::Status&) override {
    context_.TryCancel();
    RemoveHold();
  }

  const LiveCount::Member
      member_;  // goes after the call's piece of the channel
  grpc::ClientContext context_;
  Mutex mu_;
  CondVar ended_;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

// The name of the worker behind `stub`.
absl::StatusOr<std::string> AskName(const std::stop_token& stop,
                                    v1::Kv::Stub& stub) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPairTimeout);
  const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
  v1::LayoutManifest manifest;
  const grpc::Status status = stub.GetManifest(&context, {}, &manifest);
  if (!status.ok()) return FromGrpcStatus(status);
  return manifest.worker();
}

// Whether the transfer engine has given up the peer, though its link is open.
bool IsLost(const kvtransfer::TransferEngine& transfers,
            const std::string& worker) {
  const auto peers = transfers.Peers();
  for (const kvtransfer::PeerInfo& peer : *peers) {
    if (peer.worker == worker) {
      return peer.state == kvtransfer::PeerState::kSuspect ||
             peer.state == kvtransfer::PeerState::kRefused;
    }
  }
  return false;
}

// The worker paired with.
absl::StatusOr<std::string> PairWith(const std::stop_token& stop,
                                     v1::Kv::Stub& stub,
                                     kvtransfer::TransferEngine& transfers) {
  const kvtransfer::PeerOffer ours = transfers.PrepareOffer();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPairTimeout);
  const std::stop_callback cancel(stop, [&context] { context.TryCancel(); });
  v1::PairResponse response;
  const grpc::Status status =
      stub.Pair(&context, kvtransfer::ToPairRequest(ours), &response);
  if (!status.ok()) return FromGrpcStatus(status);
  ASSIGN_OR_RETURN(kvtransfer::PeerOffer theirs,
                   kvtransfer::FromProto(response));
  RETURN_IF_ERROR(transfers.CheckOffer(theirs, 0));
  transfers.Pair(ours, theirs);
  return theirs.manifest.worker;
}

}  // namespace

std::vector<std::string> ResolveAll(const std::string& host_port) {
  std::vector<std::string> found;
  const size_t colon = host_port.rfind(':');
  if (colon == std::string::npos) return found;
  const std::string port = host_port.substr(colon + 1);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (getaddrinfo(host_port.substr(0, colon).c_str(), nullptr, &hints, &list) !=
      0) {
    return found;
  }
  for (addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    char host[NI_MAXHOST];
    if (getnameinfo(entry->ai_addr, entry->ai_addrlen, host, sizeof host,
                    nullptr, 0, NI_NUMERICHOST) != 0) {
      continue;
    }
    found.push_back(entry->ai_family == AF_INET6
                        ? absl::StrCat("[", host, "]:", port)
                        : absl::StrCat(host, ":", port));
  }
  freeaddrinfo(list);
  return found;
}

PeerDialer::PeerDialer(PeerDialerOptions options,
                       kvtransfer::TransferEngine& transfers, KvLinks& links)
    : options_(std::move(options)), transfers_(transfers), links_(links) {
  for (const std::string& address : options_.addresses) {
    AddPeer(address, /*from_dns=*/false);
  }
  if (!options_.dns.empty()) {
    resolver_ = StartThread(
        "kv_resolver", [this](const std::stop_token& stop) { Resolve(stop); });
  }
}

PeerDialer::~PeerDialer() {
  resolver_ = std::jthread();  // stops and joins: no more dialers
  std::map<std::string, std::unique_ptr<Dialer>> dialers;
  {
    MutexLock lock(mu_);
    dialers.swap(dialers_);
  }
  for (auto& [address, dialer] : dialers) dialer->thread.request_stop();
  links_.CloseAll();
}

std::vector<std::string> PeerDialer::addresses() const {
  std::vector<std::string> found;
  MutexLock lock(mu_);
  for (const auto& [address, dialer] : dialers_) found.push_back(address);
  return found;
}

void PeerDialer::AddPeer(const std::string& address, bool from_dns) {
  MutexLock lock(mu_);
  std::unique_ptr<Dialer>& dialer = dialers_[address];
  if (dialer != nullptr) return;
  dialer = std::make_unique<Dialer>();
  dialer->from_dns = from_dns;
  dialer->thread = StartThread(
      "kv_dialer",
      [this, address, linked = &dialer->linked](const std::stop_token& stop) {
        Dial(stop, address, *linked);
      });
}

void PeerDialer::Resolve(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    const std::vector<std::string> named = options_.resolve(options_.dns);
    for (const std::string& address : named) AddPeer(address, true);
    if (!named.empty()) DropUnnamed(named);
    Pause(stop, milliseconds(options_.resolve_every_ms));
  }
}

void PeerDialer::DropUnnamed(const std::vector<std::string>& named) {
  std::vector<std::unique_ptr<Dialer>> dropped;  // joined without the lock
  MutexLock lock(mu_);
  for (auto it = dialers_.begin(); it != dialers_.end();) {
    const auto current = it++;
    const auto& [address, dialer] = *current;
    if (!dialer->from_dns || dialer->linked ||
        std::find(named.begin(), named.end(), address) != named.end()) {
      continue;
    }
    Log(kInfo, "kv peer address given up", {{"peer", address}});
    dialer->thread.request_stop();
    dropped.push_back(std::move(current->second));
    dialers_.erase(current);
  }
}

void PeerDialer::Dial(const std::stop_token& stop, const std::string& address,
                      std::atomic<bool>& linked) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLongestReconnectMs);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
  const std::shared_ptr<grpc::Channel> channel = grpc::CreateCustomChannel(
      address, grpc::InsecureChannelCredentials(), arguments);
  const std::unique_ptr<v1::Kv::Stub> stub = v1::Kv::NewStub(channel);
  auto away_since = std::chrono::steady_clock::now();
  milliseconds pause(0);
  std::string last_error;
  // Asked for before the first pair only: pairing with a worker that is linked
  // through another of its addresses would break that link.
  absl::StatusOr<std::string> name = std::string();
  while (!stop.stop_requested()) {
    if (!name.ok() || name->empty()) name = AskName(stop, *stub);
    if (name.ok() && links_.IsOpen(*name)) {
      Pause(stop, kLinkedElsewhere);
      name = std::string();  // another worker may have come to this address
      continue;
    }
    if (name.ok()) name = PairWith(stop, *stub, transfers_);
    if (name.ok()) {
      last_error.clear();
      linked = true;
      if (FollowLink(stop, *stub, *name)) {
        pause = milliseconds(0);
        away_since = std::chrono::steady_clock::now();
      }
      linked = false;
    } else if (last_error != name.status().message() &&
               !stop.stop_requested()) {
      // Once per cause: a peer may be away for long.
      last_error = std::string(name.status().message());
      Log(kWarn, "kv peer not paired",
          {{"peer", address}, {"error", name.status().ToString()}});
    }
    const bool eager = std::chrono::steady_clock::now() - away_since < kEager;
    Pause(stop, eager ? std::min(pause, kEagerPause) : pause);
    if (eager) grpc::experimental::ChannelResetConnectionBackoff(channel.get());
    pause = std::clamp(pause * 2, kFirstPause, kLongestPause);
  }
}

bool PeerDialer::FollowLink(const std::stop_token& stop, v1::Kv::Stub& stub,
                            const std::string& worker) {
  const auto begin = std::chrono::steady_clock::now();
  const LiveCount live;
  {
    auto link = std::make_shared<DialledLink>(links_, worker, live);
    link->Run(stub, options_.own_worker);
    const std::stop_callback close(stop, [&link] { link->Close(); });
    // Twice in a row: the first look may be older than the pairing.
    int lost = 0;
    while (!link->WaitUntilDone(kLookEvery)) {
      lost = IsLost(transfers_, worker) ? lost + 1 : 0;
      if (lost >= 2) link->Close();
    }
  }
  if (!live.AwaitNone(kGoneTimeout)) {
    Log(kWarn, "kv link outlives its call", {{"peer", worker}});
  }
  return std::chrono::steady_clock::now() - begin >= kLived;
}

}  // namespace sluice::worker
