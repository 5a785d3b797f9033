#include "kvtransfer/ucx/ucx_put_transport.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "kvtransfer/ucx/put_greeting.h"
#include "kvtransfer/ucx/ucx_context.h"

namespace sluice::kvtransfer {
namespace {

constexpr unsigned kGreetingMessage = 0;
constexpr int64_t kHandshakeMs = 3000;
constexpr int64_t kProbeMs = 1000;
constexpr size_t kMaxGreetings = 64;
constexpr int kProgressTurns = 64;
constexpr int kDestroyTurns = 1 << 16;
constexpr uint64_t kProbeBytes = 4096;

const ucp_request_param_t kNoParams = {};

// UCX's word for what ucp_put_nbx will do on `ep`: no row if it would be
// emulated by messages that the target has to handle.
bool WritesByItself(ucp_ep_h ep, PutWire wire) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* const stream = open_memstream(&text, &size);
  SLUICE_CHECK(stream != nullptr);
  ucp_ep_print_info(ep, stream);
  std::fclose(stream);
  const std::string info(text, size);
  std::free(text);
  for (const absl::string_view line : absl::StrSplit(info, '\n')) {
    if (!absl::StrContains(line, " put[")) continue;
    // An adapter's has to be without a copy; shared memory is one.
    return wire == PutWire::kSharedMemory || absl::StrContains(line, "zcopy");
  }
  return false;
}

bool Ended(int pidfd) {
  pollfd poll_args = {.fd = pidfd, .events = POLLIN, .revents = 0};
  return poll(&poll_args, 1, 0) > 0;
}

bool Done(ucs_status_ptr_t request) {
  return !UCS_PTR_IS_PTR(request) ||
         ucp_request_check_status(request) != UCS_INPROGRESS;
}

ucs_status_t TakeStatus(ucs_status_ptr_t& request) {
  if (!UCS_PTR_IS_PTR(request)) return UCS_PTR_RAW_STATUS(request);
  const ucs_status_t status = ucp_request_check_status(request);
  SLUICE_CHECK(status != UCS_INPROGRESS);
  ucp_request_free(request);
  request = nullptr;
  return status;
}

}  // namespace

struct UcxPutTransport::State {
  enum class Phase {
    kIdle,      // source: nobody dialled yet
    kHello,     // receiver: waits for the source's hello
    kGreeted,   // receiver: waits for its ready
    kProbing,   // receiver: waits for its first word, without progress once
                // the keys have left
    kFlushing,  // source: waits until it is connected
    kReady,     // source: waits for the keys
    kWriting,   // source: its first word is under way
    kUp,
    kDown,
  };
  struct Outgoing {
    std::string bytes;
    ucs_status_ptr_t request = nullptr;
  };
  struct Link {
    LinkArgs args;
    std::deque<Outgoing> outgoing;  // UCX still reads these
    Phase phase = Phase::kIdle;
    ucp_ep_h ep = nullptr;
    ucs_status_t error = UCS_OK;  // set by the error handler
    int64_t deadline_ms = 0;
    ucs_status_ptr_t request = nullptr;  // of the handshake
    int pidfd = -1;                      // of the peer; shared memory only
    bool writable = false;               // it was given our keys
    uint64_t nonce = 0;
    ucp_rkey_h probe_key = nullptr;
    ucp_rkey_h region_key = nullptr;
    uint64_t region_address = 0;
    uint64_t region_bytes = 0;
  };
  // Puts and the flush behind them, of one StartPut().
  struct Operation {
    std::vector<ucs_status_ptr_t> puts;
    ucs_status_ptr_t flush = nullptr;
  };
  // An endpoint on its way out. UCX holds the address of the link.
  struct Closing {
    std::unique_ptr<Link> link;
    LinkId id;
    ucs_status_ptr_t request;
  };
  // A link whose peer may still write.
  struct Unfenced {
    LinkId id;
    int pidfd;
  };
  struct Received {
    PutGreeting greeting;
    int64_t until_ms = 0;
  };

  ~State();
  static void OnError(void* arg, ucp_ep_h, ucs_status_t status) {
    static_cast<Link*>(arg)->error = status;
  }
  static ucs_status_t OnGreeting(void* arg, const void*, size_t, void* bytes,
                                 size_t size, const ucp_am_recv_param_t* param);

  absl::Status Start();
  absl::Status Dial(Link& link, const std::string& address);
  absl::Status Send(Link& link, PutGreeting greeting);
  absl::Status ReapSent(Link& link);
  absl::Status GiveKeys(Link& link);
  absl::Status StartProbe(LinkId id, Link& link);
  absl::Status TakeKeys(Link& link, const PutGreeting& greeting);
  absl::Status Watch(Link& link, uint64_t pid);
  absl::Status OnMessage(Link& link, const PutGreeting& greeting);
  // The next step of a handshake that needs no message.
  absl::Status Advance(LinkId id, Link& link, TransportEvents& events);
  absl::Status StateOf(const Link& link) const;
  void HandleGreetings();
  bool Probe(TransportEvents& events);
  bool AdvanceAll(TransportEvents& events);
  bool ReapClosed(TransportEvents& events);
  void Discard(LinkId id, std::unique_ptr<Link> link);
  static void DestroyKeys(const Link& link);
  std::atomic<uint64_t>* probe_word() const {
    return reinterpret_cast<std::atomic<uint64_t>*>(probe->base());
  }
  absl::StatusOr<std::string> PackKey(ucp_mem_h memory) const;

  std::shared_ptr<UcxPutContext> context;
  const UcxPutMemory* memory = nullptr;
  const Clock* clock = nullptr;
  ucp_worker_h worker = nullptr;
  std::string address;
  int epoll_fd = -1;
  std::unique_ptr<UcxPutMemory> probe;  // of one word
  Region region;
  ucp_mem_h mapped = nullptr;  // of the region, if we did
  bool deregistered = false;
  LinkId keys_of = 0;  // whose first word is awaited; 0: nobody's
  LinkId probing = 0;  // and cannot be helped any more
  int64_t probe_until_ms = 0;
  std::map<LinkId, std::unique_ptr<Link>> links;
  std::vector<Closing> closing;
  std::vector<Unfenced> unfenced;
  std::vector<Received> received;
  uint64_t num_received = 0;
  std::map<OperationId, Operation> operations;
};

// --- start and end ----------------------------------------------------------

ucs_status_t UcxPutTransport::State::OnGreeting(
    void* arg, const void*, size_t, void* bytes, size_t size,
    const ucp_am_recv_param_t* param) {
  auto* self = static_cast<State*>(arg);
  const bool whole = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0;
  if (!whole || size > kMaxGreetingBytes ||
      self->received.size() >= kMaxGreetings) {
    return UCS_OK;
  }
  absl::StatusOr<PutGreeting> greeting =
      DecodePutGreeting({static_cast<const char*>(bytes), size});
  if (greeting.ok()) {
    self->received.push_back(
        {*std::move(greeting), self->clock->NowMs() + kHandshakeMs});
    ++self->num_received;
  }
  return UCS_OK;
}

absl::Status UcxPutTransport::State::Start() {
  ucp_worker_params_t params = {};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  RETURN_IF_ERROR(FromUcs(
      ucp_worker_create(context->handle(), &params, &worker), "worker_create"));
  ucp_am_handler_param_t handler = {};
  handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                       UCP_AM_HANDLER_PARAM_FIELD_CB |
                       UCP_AM_HANDLER_PARAM_FIELD_ARG;
  handler.id = kGreetingMessage;
  handler.cb = &State::OnGreeting;
  handler.arg = this;
  RETURN_IF_ERROR(FromUcs(ucp_worker_set_am_recv_handler(worker, &handler),
                          "set_am_recv_handler"));
  ucp_address_t* own = nullptr;
  size_t own_bytes = 0;
  RETURN_IF_ERROR(
      FromUcs(ucp_worker_get_address(worker, &own, &own_bytes), "get_address"));
  address.assign(reinterpret_cast<const char*>(own), own_bytes);
  ucp_worker_release_address(worker, own);
  int efd = -1;
  RETURN_IF_ERROR(FromUcs(ucp_worker_get_efd(worker, &efd), "get_efd"));
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event = {.events = EPOLLIN, .data = {.fd = efd}};
  if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, efd, &event) != 0) {
    return absl::UnavailableError("ucx put: epoll");
  }
  return absl::OkStatus();
}

UcxPutTransport::State::~State() {
  if (worker != nullptr) {
    MutexLock lock(UcxDescriptors());
    for (auto& [id, link] : links) Discard(id, std::move(link));
    links.clear();
    for (int i = 0; i < kDestroyTurns && !closing.empty(); ++i) {
      ucp_worker_progress(worker);
      std::erase_if(closing, [](Closing& c) {
        if (!Done(c.request)) return false;
        (void)TakeStatus(c.request);
        DestroyKeys(*c.link);
        return true;
      });
    }
    if (epoll_fd >= 0) close(epoll_fd);
    if (closing.empty()) {
      ucp_worker_destroy(worker);
    } else {
      // Over shared memory the close of a link to a dead peer may never end,
      // and UCX (1.13.1) aborts when the worker goes before it: it stays, with
      // all it needs, until the process ends.
      struct Left {
        ucp_worker_h worker;
        std::shared_ptr<UcxPutContext> context;
        std::vector<Closing> closing;
      };
      static auto* const left = new std::vector<Left>;  // under the lock
      left->push_back({worker, context, std::move(closing)});
    }
  }
  for (const Unfenced& link : unfenced) {
    if (link.pidfd >= 0) close(link.pidfd);
  }
  if (mapped != nullptr) context->Unmap(mapped);
}

absl::StatusOr<std::string> UcxPutTransport::State::PackKey(
    ucp_mem_h of) const {
  void* key = nullptr;
  size_t size = 0;
  RETURN_IF_ERROR(
      FromUcs(ucp_rkey_pack(context->handle(), of, &key, &size), "rkey_pack"));
  std::string packed(static_cast<const char*>(key), size);
  ucp_rkey_buffer_release(key);
  return packed;
}

// --- the handshake ----------------------------------------------------------

absl::Status UcxPutTransport::State::Dial(Link& link, const std::string& to) {
  ucp_ep_params_t params = {};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(to.data());
  params.err_mode = context->wire() == PutWire::kSharedMemory
                        ? UCP_ERR_HANDLING_MODE_NONE
                        : UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &State::OnError;
  params.err_handler.arg = &link;
  link.deadline_ms = clock->NowMs() + kHandshakeMs;
  return FromUcs(ucp_ep_create(worker, &params, &link.ep), "ep_create");
}

absl::Status UcxPutTransport::State::Send(Link& link, PutGreeting greeting) {
  greeting.token = link.args.peer_token;
  link.outgoing.push_back({EncodePutGreeting(greeting)});
  Outgoing& out = link.outgoing.back();
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_AM_SEND_FLAG_EAGER;
  out.request = ucp_am_send_nbx(link.ep, kGreetingMessage, nullptr, 0,
                                out.bytes.data(), out.bytes.size(), &param);
  if (UCS_PTR_IS_PTR(out.request)) return absl::OkStatus();
  const ucs_status_t status = TakeStatus(out.request);
  link.outgoing.pop_back();
  return FromUcs(status, "am_send");
}

absl::Status UcxPutTransport::State::ReapSent(Link& link) {
  while (!link.outgoing.empty() && Done(link.outgoing.front().request)) {
    const ucs_status_t status = TakeStatus(link.outgoing.front().request);
    link.outgoing.pop_front();
    RETURN_IF_ERROR(FromUcs(status, "am_send"));
  }
  return absl::OkStatus();
}

// The peer's death, where the wire does not tell.
absl::Status UcxPutTransport::State::Watch(Link& link, uint64_t pid) {
  if (context->wire() != PutWire::kSharedMemory) return absl::OkStatus();
  link.pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  epoll_event event = {.events = EPOLLIN, .data = {.fd = link.pidfd}};
  if (link.pidfd < 0 ||
      epoll_ctl(epoll_fd, EPOLL_CTL_ADD, link.pidfd, &event) != 0) {
    return absl::UnavailableError(
        absl::StrCat("process ", pid, " cannot be watched"));
  }
  return absl::OkStatus();
}

absl::Status UcxPutTransport::State::GiveKeys(Link& link) {
  if (deregistered || region.base == nullptr) {
    return absl::UnavailableError("the region takes no writes");
  }
  PutGreeting keys;
  keys.step = PutStep::kKey;
  keys.nonce = link.nonce = RandomU64() | 1;
  keys.probe_address = reinterpret_cast<uintptr_t>(probe->base());
  ASSIGN_OR_RETURN(keys.probe_key, PackKey(probe->handle()));
  keys.region_address = reinterpret_cast<uintptr_t>(region.base);
  keys.region_bytes = region.size_bytes;
  ASSIGN_OR_RETURN(keys.region_key,
                   PackKey(mapped != nullptr ? mapped : memory->handle()));
  probe_word()->store(0);
  link.writable = true;
  return Send(link, std::move(keys));
}

absl::Status UcxPutTransport::State::StartProbe(LinkId id, Link& link) {
  if (probing != 0) return absl::OkStatus();
  if (link.nonce == 0) {
    if (keys_of != 0) return absl::OkStatus();  // one word, one link at a time
    RETURN_IF_ERROR(GiveKeys(link));
    keys_of = id;
  }
  if (!link.outgoing.empty()) return absl::OkStatus();
  if (probe_word()->load(std::memory_order_acquire) != 0) {
    return absl::UnavailableError("written before it could be proven");
  }
  probing = id;
  probe_until_ms = clock->NowMs() + kProbeMs;
  return absl::OkStatus();
}

absl::Status UcxPutTransport::State::TakeKeys(Link& link,
                                              const PutGreeting& greeting) {
  RETURN_IF_ERROR(FromUcs(
      ucp_ep_rkey_unpack(link.ep, greeting.probe_key.data(), &link.probe_key),
      "rkey_unpack"));
  RETURN_IF_ERROR(FromUcs(
      ucp_ep_rkey_unpack(link.ep, greeting.region_key.data(), &link.region_key),
      "rkey_unpack"));
  link.region_address = greeting.region_address;
  link.region_bytes = greeting.region_bytes;
  link.nonce = greeting.nonce;
  ucs_status_ptr_t put =
      ucp_put_nbx(link.ep, &link.nonce, sizeof link.nonce,
                  greeting.probe_address, link.probe_key, &kNoParams);
  if (UCS_PTR_IS_PTR(put)) ucp_request_free(put);  // goes when it has ended
  if (UCS_PTR_IS_ERR(put)) return FromUcs(UCS_PTR_STATUS(put), "put");
  link.request = ucp_ep_flush_nbx(link.ep, &kNoParams);
  link.phase = Phase::kWriting;
  return absl::OkStatus();
}

absl::Status UcxPutTransport::State::OnMessage(Link& link,
                                               const PutGreeting& greeting) {
  const PutStep step = greeting.step;
  if (step == PutStep::kHello && link.phase == Phase::kIdle) {
    RETURN_IF_ERROR(Dial(link, greeting.address));
    RETURN_IF_ERROR(Watch(link, greeting.pid));
    link.phase = Phase::kFlushing;
    RETURN_IF_ERROR(Send(link, {.pid = static_cast<uint64_t>(getpid())}));
    link.request = ucp_ep_flush_nbx(link.ep, &kNoParams);
  } else if (step == PutStep::kHello && link.phase == Phase::kHello) {
    RETURN_IF_ERROR(Watch(link, greeting.pid));
    link.phase = Phase::kGreeted;
  } else if (step == PutStep::kReady && link.phase == Phase::kGreeted) {
    link.phase = Phase::kProbing;
  } else if (step == PutStep::kKey && link.phase == Phase::kReady) {
    return TakeKeys(link, greeting);
  }
  return absl::OkStatus();
}

void UcxPutTransport::State::HandleGreetings() {
  std::vector<Received> messages;
  messages.swap(received);
  const int64_t now = clock->NowMs();
  for (Received& message : messages) {
    Link* match = nullptr;
    for (const auto& [id, link] : links) {
      // Every candidate is compared, so that time tells nothing.
      if (ConstantTimeEqual(link->args.own_token, message.greeting.token)) {
        match = link.get();
      }
    }
    if (match != nullptr) {
      const absl::Status status = OnMessage(*match, message.greeting);
      if (!status.ok()) match->error = UCS_ERR_UNREACHABLE;
    } else if (now < message.until_ms && received.size() < kMaxGreetings) {
      // The link may be announced to us a moment after the peer has dialled.
      received.push_back(std::move(message));
    }
  }
}

absl::Status UcxPutTransport::State::StateOf(const Link& link) const {
  RETURN_IF_ERROR(FromUcs(link.error, "endpoint"));
  if (link.pidfd >= 0 && Ended(link.pidfd)) {
    return absl::UnavailableError("its process has ended");
  }
  const bool waits = link.phase != Phase::kUp && link.phase != Phase::kIdle;
  if (waits && clock->NowMs() >= link.deadline_ms) {
    return absl::UnavailableError("put handshake took too long");
  }
  return absl::OkStatus();
}

absl::Status UcxPutTransport::State::Advance(LinkId id, Link& link,
                                             TransportEvents& events) {
  RETURN_IF_ERROR(StateOf(link));
  RETURN_IF_ERROR(ReapSent(link));
  if (link.phase == Phase::kProbing) return StartProbe(id, link);
  if (!Done(link.request)) return absl::OkStatus();
  if (link.phase == Phase::kFlushing) {
    RETURN_IF_ERROR(FromUcs(TakeStatus(link.request), "flush"));
    if (!WritesByItself(link.ep, context->wire())) {
      return absl::UnimplementedError("ucx would emulate the put");
    }
    link.phase = Phase::kReady;
    return Send(link, {.step = PutStep::kReady});
  }
  if (link.phase == Phase::kWriting) {
    RETURN_IF_ERROR(FromUcs(TakeStatus(link.request), "flush"));
    link.phase = Phase::kUp;
    events.OnLinkUp(id);
  }
  return absl::OkStatus();
}

bool UcxPutTransport::State::AdvanceAll(TransportEvents& events) {
  bool any = false;
  for (auto& [id, link] : links) {
    if (link->phase == Phase::kDown) continue;
    const Phase before = link->phase;
    const absl::Status status = Advance(id, *link, events);
    if (!status.ok()) {
      link->phase = Phase::kDown;
      events.OnLinkDown(id, absl::Status(status.code(),
                                         absl::StrCat("peer ", link->args.peer,
                                                      ": ", status.message())));
    }
    any = any || link->phase != before;
  }
  return any;
}

// While a first word is awaited nothing here may progress: it has to land
// without our help. True: it is.
bool UcxPutTransport::State::Probe(TransportEvents& events) {
  const auto found = links.find(keys_of);
  if (found == links.end() || found->second->phase != Phase::kProbing) {
    keys_of = probing = 0;
    return false;
  }
  if (probing == 0) return false;
  Link& link = *found->second;
  if (probe_word()->load(std::memory_order_acquire) == link.nonce) {
    link.phase = Phase::kUp;
    keys_of = probing = 0;
    events.OnLinkUp(found->first);
    return false;
  }
  if (clock->NowMs() < probe_until_ms && StateOf(link).ok()) return true;
  link.phase = Phase::kDown;
  keys_of = probing = 0;
  events.OnLinkDown(found->first,
                    absl::UnimplementedError(absl::StrCat(
                        "peer ", link.args.peer,
                        ": its first write did not land by itself")));
  return false;
}

// --- endings ----------------------------------------------------------------

// Once no put can use them.
void UcxPutTransport::State::DestroyKeys(const Link& link) {
  for (ucp_rkey_h key : {link.probe_key, link.region_key}) {
    if (key != nullptr) ucp_rkey_destroy(key);
  }
}

void UcxPutTransport::State::Discard(LinkId id, std::unique_ptr<Link> link) {
  if (UCS_PTR_IS_PTR(link->request)) ucp_request_free(link->request);
  if (link->writable) {
    unfenced.push_back({.id = id, .pidfd = link->pidfd});
  } else if (link->pidfd >= 0) {
    close(link->pidfd);
  }
  if (link->ep == nullptr) return;
  ucp_request_param_t param = {};
  if (context->wire() != PutWire::kSharedMemory) {
    param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  }
  for (const Outgoing& out : link->outgoing) {
    if (UCS_PTR_IS_PTR(out.request)) ucp_request_free(out.request);
  }
  const ucs_status_ptr_t request = ucp_ep_close_nbx(link->ep, &param);
  closing.push_back({std::move(link), id, request});
}

bool UcxPutTransport::State::ReapClosed(TransportEvents& events) {
  for (size_t i = 0; i < closing.size();) {
    if (!Done(closing[i].request)) {
      ++i;
      continue;
    }
    (void)TakeStatus(closing[i].request);
    DestroyKeys(*closing[i].link);
    closing[i] = std::move(closing.back());
    closing.pop_back();
  }
  std::vector<std::pair<LinkId, Fence>> fenced;
  for (const Unfenced& link : unfenced) {
    if (context->wire() == PutWire::kSharedMemory) {
      if (Ended(link.pidfd)) fenced.emplace_back(link.id, Fence::kDeath);
    } else if (deregistered) {
      fenced.emplace_back(link.id, Fence::kDeregistered);
    }
  }
  for (const auto& fence : fenced) {
    const LinkId id = fence.first;
    std::erase_if(unfenced, [id](const Unfenced& link) {
      if (link.id != id) return false;
      if (link.pidfd >= 0) close(link.pidfd);
      return true;
    });
    events.OnFenced(id, fence.second);
  }
  return !fenced.empty();
}

// --- the transport ----------------------------------------------------------

UcxPutTransport::UcxPutTransport(std::unique_ptr<State> state)
    : Transport("ucx_put", TransferMode::kPut), state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<UcxPutTransport>> UcxPutTransport::Create(
    const UcxPutTransportOptions& options) {
  auto state = std::make_unique<State>();
  state->context = options.context;
  state->memory = options.memory;
  state->clock = options.clock;
  ASSIGN_OR_RETURN(state->probe,
                   UcxPutMemory::Create(options.context, kProbeBytes));
  {
    MutexLock lock(UcxDescriptors());
    RETURN_IF_ERROR(state->Start());
  }
  auto transport =
      std::unique_ptr<UcxPutTransport>(new UcxPutTransport(std::move(state)));
  transport->address_ = transport->state_->address;
  transport->event_fd_ = transport->state_->epoll_fd;
  return transport;
}

UcxPutTransport::~UcxPutTransport() {
  SLUICE_CHECK(state_->operations.empty());
}

absl::Status UcxPutTransport::Register(const Region& region) {
  State& state = *state_;
  RETURN_IF_ERROR(UcsMemoryType(region.memory_kind).status());
  const bool ours =
      state.memory != nullptr && state.memory->base() == region.base;
  if (!ours && state.context->wire() == PutWire::kSharedMemory) {
    return absl::InvalidArgumentError(
        "only memory that UCX allocated can be written over shared memory");
  }
  if (!ours) {
    ASSIGN_OR_RETURN(state.mapped, state.context->Map(region));
  }
  state.region = region;
  return absl::OkStatus();
}

void UcxPutTransport::Deregister() {
  State& state = *state_;
  // UCX's own memory stays written to until its owner lets go of it.
  if (state.mapped == nullptr) return;
  state.context->Unmap(std::exchange(state.mapped, nullptr));
  state.deregistered = true;
}

absl::StatusOr<LinkId> UcxPutTransport::Connect(const LinkArgs& args) {
  State& state = *state_;
  auto link = std::make_unique<State::Link>();
  link->args = args;
  const LinkId id = NewId();
  if (args.dial) {
    MutexLock lock(UcxDescriptors());
    RETURN_IF_ERROR(state.Dial(*link, args.address));
    link->phase = State::Phase::kHello;
    const absl::Status sent = state.Send(
        *link,
        {.pid = static_cast<uint64_t>(getpid()), .address = state.address});
    if (!sent.ok()) {
      state.Discard(id, std::move(link));
      return sent;
    }
  }
  state.links.emplace(id, std::move(link));
  return id;
}

absl::StatusOr<OperationId> UcxPutTransport::StartWrite(
    LinkId link, const DataHeader& header, std::vector<std::byte> payload) {
  return absl::UnimplementedError("put links carry no messages");
}

absl::StatusOr<OperationId> UcxPutTransport::StartRead(
    LinkId link, std::vector<ReadPiece> pieces, ReadSink* sink) {
  return absl::UnimplementedError("put links are written by the other side");
}

absl::StatusOr<OperationId> UcxPutTransport::StartPut(
    LinkId id, std::vector<PutPiece> pieces) {
  const auto found = state_->links.find(id);
  if (found == state_->links.end() ||
      found->second->phase != State::Phase::kUp ||
      found->second->region_key == nullptr) {
    return absl::UnavailableError("ucx put link is down");
  }
  const State::Link& link = *found->second;
  for (const PutPiece& piece : pieces) {
    if (piece.remote_offset > link.region_bytes ||
        piece.size_bytes > link.region_bytes - piece.remote_offset) {
      return absl::InvalidArgumentError(absl::StrCat(
          "put of ", piece.size_bytes, " bytes at ", piece.remote_offset,
          " is outside a region of ", link.region_bytes));
    }
  }
  State::Operation operation;
  for (const PutPiece& piece : pieces) {
    const ucs_status_ptr_t put = ucp_put_nbx(
        link.ep, piece.from, piece.size_bytes,
        link.region_address + piece.remote_offset, link.region_key, &kNoParams);
    if (put != nullptr) operation.puts.push_back(put);
  }
  operation.flush = ucp_ep_flush_nbx(link.ep, &kNoParams);
  const OperationId operation_id = NewId();
  state_->operations.emplace(operation_id, std::move(operation));
  return operation_id;
}

std::optional<absl::Status> UcxPutTransport::Poll(OperationId id) {
  const auto found = state_->operations.find(id);
  SLUICE_CHECK(found != state_->operations.end());
  State::Operation& operation = found->second;
  for (const ucs_status_ptr_t put : operation.puts) {
    if (!Done(put)) return std::nullopt;
  }
  if (!Done(operation.flush)) return std::nullopt;
  absl::Status status = FromUcs(TakeStatus(operation.flush), "flush");
  for (ucs_status_ptr_t& put : operation.puts) {
    status.Update(FromUcs(TakeStatus(put), "put"));
  }
  state_->operations.erase(found);
  return status;
}

bool UcxPutTransport::Progress(TransportEvents& events, bool may_sleep) {
  State& state = *state_;
  MutexLock lock(UcxDescriptors());
  if (state.Probe(events)) return true;
  const uint64_t before = state.num_received;
  bool any = false;
  for (int i = 0; i < kProgressTurns && ucp_worker_progress(state.worker) != 0;
       ++i) {
    any = true;
  }
  state.HandleGreetings();
  any = state.AdvanceAll(events) || any;
  any = state.ReapClosed(events) || any;
  any = any || state.num_received != before;
  if (any || !may_sleep || state.probing != 0) return any || state.probing != 0;
  return ucp_worker_arm(state.worker) != UCS_OK;
}

void UcxPutTransport::Close(LinkId id) {
  const auto found = state_->links.find(id);
  if (found == state_->links.end()) return;
  MutexLock lock(UcxDescriptors());
  state_->Discard(id, std::move(found->second));
  state_->links.erase(found);
}

}  // namespace sluice::kvtransfer
