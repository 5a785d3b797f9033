#include "kvtransfer/ucx/ucx_transport.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "kvtransfer/ucx/data_codec.h"
#include "kvtransfer/ucx/ucx_context.h"

namespace sluice::kvtransfer {
namespace {

constexpr unsigned kHelloMessage = 0;
constexpr unsigned kDataMessage = 1;
constexpr int64_t kHandshakeMs = 3000;
constexpr size_t kMaxUnknown = 64;
constexpr size_t kMaxTokenBytes = 64;
constexpr int kProgressTurns = 64;
constexpr int kDestroyTurns = 1 << 20;

}  // namespace

struct UcxTransport::State {
  // One UCX endpoint. Lives until its close has completed, because UCX holds
  // its address for the error handler.
  struct Endpoint {
    ucp_ep_h ep = nullptr;
    LinkId link = 0;              // 0: not matched with a link yet
    ucs_status_t error = UCS_OK;  // set by the error handler
    bool closing = false;
    ucs_status_ptr_t close_request = nullptr;
    std::string token;        // presented, not yet matched
    int64_t deadline_ms = 0;  // of the handshake
  };
  struct Link {
    LinkArgs args;
    Endpoint* endpoint = nullptr;
    bool up = false;
    bool down = false;
  };
  struct Operation {
    std::array<std::byte, kDataHeaderBytes> header;
    std::vector<std::byte> payload;
    ucs_status_ptr_t request = nullptr;
  };
  // A token: a first message, in or out.
  struct Hello {
    ucp_ep_h ep;
    std::string token;
  };
  struct SentHello {
    std::string token;
    ucs_status_ptr_t request;
  };

  explicit State(const Clock* c) : clock(c) {}
  ~State();

  static void OnError(void* arg, ucp_ep_h ep, ucs_status_t status);
  static void OnConnection(ucp_conn_request_h request, void* arg);
  static ucs_status_t OnHello(void* arg, const void* header,
                              size_t header_bytes, void* bytes, size_t size,
                              const ucp_am_recv_param_t* param);
  static ucs_status_t OnData(void* arg, const void* header, size_t header_bytes,
                             void* bytes, size_t size,
                             const ucp_am_recv_param_t* param);

  absl::Status Listen(const SocketAddress& address, std::string& bound);
  absl::Status SetHandler(unsigned id, ucp_am_recv_callback_t handler);
  absl::StatusOr<Endpoint*> MakeEndpoint(ucp_ep_params_t params);
  Endpoint* Find(ucp_ep_h ep);
  absl::Status SendHello(Endpoint& endpoint, const std::string& token);
  void Discard(Endpoint& endpoint);
  bool AcceptAll();
  bool HandleHellos(TransportEvents& events);
  bool MatchUnknown(TransportEvents& events);
  bool HandleErrors(TransportEvents& events);
  void ReapClosed();

  const Clock* const clock;
  std::unique_ptr<UcxContext> context;
  ucp_listener_h listener = nullptr;
  std::map<LinkId, Link> links;
  std::vector<std::unique_ptr<Endpoint>> endpoints;
  std::map<OperationId, std::unique_ptr<Operation>> operations;
  std::vector<ucp_conn_request_h> requests;  // of peers that dial us
  std::vector<Hello> hellos;
  std::deque<SentHello> sent_hellos;
  TransportEvents* events = nullptr;  // during Progress()
};

// --- handlers that UCX calls: set, copy, return -----------------------------

void UcxTransport::State::OnError(void* arg, ucp_ep_h ep, ucs_status_t status) {
  static_cast<Endpoint*>(arg)->error = status;
}

void UcxTransport::State::OnConnection(ucp_conn_request_h request, void* arg) {
  static_cast<State*>(arg)->requests.push_back(request);
}

ucs_status_t UcxTransport::State::OnHello(void* arg, const void* header,
                                          size_t header_bytes, void* bytes,
                                          size_t size,
                                          const ucp_am_recv_param_t* param) {
  auto* self = static_cast<State*>(arg);
  const bool whole = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0 &&
                     (param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) != 0;
  if (whole && size <= kMaxTokenBytes && self->hellos.size() < kMaxUnknown) {
    self->hellos.push_back(
        {param->reply_ep, std::string(static_cast<char*>(bytes), size)});
  }
  return UCS_OK;
}

ucs_status_t UcxTransport::State::OnData(void* arg, const void* header,
                                         size_t header_bytes, void* bytes,
                                         size_t size,
                                         const ucp_am_recv_param_t* param) {
  auto* self = static_cast<State*>(arg);
  const bool whole = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0 &&
                     (param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) != 0;
  if (!whole || self->events == nullptr) return UCS_OK;
  const Endpoint* endpoint = self->Find(param->reply_ep);
  if (endpoint == nullptr || endpoint->link == 0 || endpoint->closing) {
    return UCS_OK;
  }
  const auto link = self->links.find(endpoint->link);
  if (link == self->links.end() || !link->second.up) return UCS_OK;
  const absl::StatusOr<DataHeader> decoded =
      DecodeDataHeader({static_cast<const std::byte*>(header), header_bytes});
  if (decoded.ok()) {
    self->events->OnData(link->first, *decoded,
                         {static_cast<const std::byte*>(bytes), size});
  }
  return UCS_OK;
}

// --- making and ending endpoints --------------------------------------------

absl::Status UcxTransport::State::SetHandler(unsigned id,
                                             ucp_am_recv_callback_t handler) {
  ucp_am_handler_param_t param = {};
  param.field_mask =
      UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
      UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  param.id = id;
  // A message comes whole, however many fragments it was.
  param.flags = UCP_AM_FLAG_WHOLE_MSG;
  param.cb = handler;
  param.arg = this;
  return FromUcs(ucp_worker_set_am_recv_handler(context->worker(), &param),
                 "set_am_recv_handler");
}

absl::Status UcxTransport::State::Listen(const SocketAddress& address,
                                         std::string& bound) {
  RETURN_IF_ERROR(SetHandler(kHelloMessage, &State::OnHello));
  RETURN_IF_ERROR(SetHandler(kDataMessage, &State::OnData));
  ucp_listener_params_t params = {};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR |
                      UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address.storage);
  params.sockaddr.addrlen = address.length;
  params.conn_handler.cb = &State::OnConnection;
  params.conn_handler.arg = this;
  RETURN_IF_ERROR(
      FromUcs(ucp_listener_create(context->worker(), &params, &listener),
              "listener_create"));
  ucp_listener_attr_t attributes = {};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  RETURN_IF_ERROR(
      FromUcs(ucp_listener_query(listener, &attributes), "listener_query"));
  bound = FormatSocketAddress(attributes.sockaddr);
  return absl::OkStatus();
}

absl::StatusOr<UcxTransport::State::Endpoint*>
UcxTransport::State::MakeEndpoint(ucp_ep_params_t params) {
  auto endpoint = std::make_unique<Endpoint>();
  params.field_mask |=
      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = &State::OnError;
  params.err_handler.arg = endpoint.get();
  RETURN_IF_ERROR(FromUcs(
      ucp_ep_create(context->worker(), &params, &endpoint->ep), "ep_create"));
  endpoint->deadline_ms = clock->NowMs() + kHandshakeMs;
  endpoints.push_back(std::move(endpoint));
  return endpoints.back().get();
}

UcxTransport::State::Endpoint* UcxTransport::State::Find(ucp_ep_h ep) {
  for (const std::unique_ptr<Endpoint>& endpoint : endpoints) {
    if (endpoint->ep == ep && !endpoint->closing) return endpoint.get();
  }
  return nullptr;
}

absl::Status UcxTransport::State::SendHello(Endpoint& endpoint,
                                            const std::string& token) {
  sent_hellos.push_back({token, nullptr});
  SentHello& hello = sent_hellos.back();
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_AM_SEND_FLAG_EAGER | UCP_AM_SEND_FLAG_REPLY;
  hello.request =
      ucp_am_send_nbx(endpoint.ep, kHelloMessage, nullptr, 0,
                      hello.token.data(), hello.token.size(), &param);
  if (UCS_PTR_IS_PTR(hello.request)) return absl::OkStatus();
  const ucs_status_t status = UCS_PTR_RAW_STATUS(hello.request);
  sent_hellos.pop_back();
  return FromUcs(status, "am_send");
}

// Closes by force; the object goes when the close has completed.
void UcxTransport::State::Discard(Endpoint& endpoint) {
  if (endpoint.closing) return;
  endpoint.closing = true;
  endpoint.link = 0;
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  endpoint.close_request = ucp_ep_close_nbx(endpoint.ep, &param);
}

void UcxTransport::State::ReapClosed() {
  while (!sent_hellos.empty() &&
         ucp_request_check_status(sent_hellos.front().request) !=
             UCS_INPROGRESS) {
    ucp_request_free(sent_hellos.front().request);
    sent_hellos.pop_front();
  }
  for (size_t i = 0; i < endpoints.size();) {
    Endpoint& endpoint = *endpoints[i];
    const bool pending =
        UCS_PTR_IS_PTR(endpoint.close_request) &&
        ucp_request_check_status(endpoint.close_request) == UCS_INPROGRESS;
    if (!endpoint.closing || pending) {
      ++i;
      continue;
    }
    if (UCS_PTR_IS_PTR(endpoint.close_request)) {
      ucp_request_free(endpoint.close_request);
    }
    endpoints[i] = std::move(endpoints.back());
    endpoints.pop_back();
  }
}

UcxTransport::State::~State() {
  if (context == nullptr) return;
  MutexLock lock(UcxDescriptors());
  for (const ucp_conn_request_h request : requests) {
    ucp_listener_reject(listener, request);
  }
  if (listener != nullptr) ucp_listener_destroy(listener);
  for (const std::unique_ptr<Endpoint>& endpoint : endpoints) {
    Discard(*endpoint);
  }
  for (int i = 0; i < kDestroyTurns; ++i) {
    if (endpoints.empty() && sent_hellos.empty()) break;
    ucp_worker_progress(context->worker());
    ReapClosed();
  }
}

// --- progress ---------------------------------------------------------------

bool UcxTransport::State::AcceptAll() {
  std::vector<ucp_conn_request_h> accepted;
  accepted.swap(requests);
  const size_t unknown = static_cast<size_t>(
      std::count_if(endpoints.begin(), endpoints.end(),
                    [](const auto& e) { return e->link == 0; }));
  for (const ucp_conn_request_h request : accepted) {
    if (unknown >= kMaxUnknown) {
      ucp_listener_reject(listener, request);
      continue;
    }
    ucp_ep_params_t params = {};
    params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
    params.conn_request = request;
    // A peer that is gone by now simply dials again.
    MakeEndpoint(params).IgnoreError();
  }
  return !accepted.empty();
}

bool UcxTransport::State::HandleHellos(TransportEvents& to) {
  std::vector<Hello> received;
  received.swap(hellos);
  for (Hello& hello : received) {
    Endpoint* endpoint = Find(hello.ep);
    if (endpoint == nullptr) continue;
    if (endpoint->link == 0) {
      // One token an endpoint: it cannot try several.
      if (endpoint->token.empty()) endpoint->token = std::move(hello.token);
      continue;
    }
    Link& link = links.at(endpoint->link);
    if (link.up || !link.args.dial) continue;
    if (ConstantTimeEqual(link.args.own_token, hello.token)) {
      link.up = true;
      link.args.own_token.clear();
      to.OnLinkUp(endpoint->link);
    } else {
      endpoint->error = UCS_ERR_REJECTED;
    }
  }
  return MatchUnknown(to) || !received.empty();
}

// Gives endpoints that presented a token to the link that expects it. The
// link may be announced to us a moment after the peer has dialled.
bool UcxTransport::State::MatchUnknown(TransportEvents& to) {
  bool any = false;
  for (const std::unique_ptr<Endpoint>& endpoint : endpoints) {
    if (endpoint->link != 0 || endpoint->token.empty() || endpoint->closing) {
      continue;
    }
    LinkId match = 0;
    for (const auto& [id, link] : links) {
      // Every candidate is compared, so that time tells nothing.
      if (!link.args.dial && link.endpoint == nullptr && !link.down &&
          ConstantTimeEqual(link.args.own_token, endpoint->token)) {
        match = id;
      }
    }
    if (match == 0) continue;
    any = true;
    Link& link = links.at(match);
    link.endpoint = endpoint.get();
    link.up = true;
    link.args.own_token.clear();
    endpoint->link = match;
    endpoint->token.clear();
    const absl::Status sent = SendHello(*endpoint, link.args.peer_token);
    if (sent.ok()) {
      to.OnLinkUp(match);
    } else {
      endpoint->error = UCS_ERR_UNREACHABLE;
    }
  }
  return any;
}

bool UcxTransport::State::HandleErrors(TransportEvents& to) {
  bool any = false;
  const int64_t now = clock->NowMs();
  for (const std::unique_ptr<Endpoint>& endpoint : endpoints) {
    if (endpoint->closing) continue;
    const auto found = links.find(endpoint->link);
    const bool up = found != links.end() && found->second.up;
    absl::Status status = FromUcs(endpoint->error, "endpoint");
    if (status.ok() && !up && now >= endpoint->deadline_ms) {
      status = absl::UnavailableError("ucx handshake took too long");
    }
    if (status.ok()) continue;
    any = true;
    if (found != links.end()) {
      Link& link = found->second;
      link.endpoint = nullptr;
      link.down = true;
      link.up = false;
      to.OnLinkDown(found->first,
                    absl::UnavailableError(absl::StrCat(
                        "peer ", link.args.peer, ": ", status.message())));
    }
    Discard(*endpoint);
  }
  return any;
}

UcxTransport::UcxTransport(std::unique_ptr<State> state)
    : Transport("ucx", TransferMode::kStream), state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<UcxTransport>> UcxTransport::Create(
    const UcxTransportOptions& options) {
  ASSIGN_OR_RETURN(const SocketAddress address,
                   ParseSocketAddress(options.listen_address));
  auto state = std::make_unique<State>(options.clock);
  ASSIGN_OR_RETURN(state->context, UcxContext::Create(address));
  std::string bound;
  RETURN_IF_ERROR(state->Listen(address, bound));
  ASSIGN_OR_RETURN(const int event_fd, state->context->EventFd());
  auto transport =
      std::unique_ptr<UcxTransport>(new UcxTransport(std::move(state)));
  transport->address_ = bound;
  transport->event_fd_ = event_fd;
  return transport;
}

UcxTransport::~UcxTransport() { SLUICE_CHECK(state_->operations.empty()); }

absl::Status UcxTransport::Register(const Region& region) {
  if (region.memory_kind == "host") return absl::OkStatus();  // nothing to pin
  return absl::UnimplementedError(
      absl::StrCat("messages are placed by the CPU, which has no ",
                   region.memory_kind, " memory"));
}

absl::StatusOr<LinkId> UcxTransport::Connect(const LinkArgs& args) {
  State::Link link;
  link.args = args;
  const LinkId id = NewId();
  MutexLock lock(UcxDescriptors());
  if (args.dial) {
    ASSIGN_OR_RETURN(const SocketAddress address,
                     ParseSocketAddress(args.address));
    ucp_ep_params_t params = {};
    params.field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR;
    params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
    params.sockaddr.addr = reinterpret_cast<const sockaddr*>(&address.storage);
    params.sockaddr.addrlen = address.length;
    ASSIGN_OR_RETURN(link.endpoint, state_->MakeEndpoint(params));
    if (absl::Status sent = state_->SendHello(*link.endpoint, args.peer_token);
        !sent.ok()) {
      state_->Discard(*link.endpoint);
      return sent;
    }
    link.endpoint->link = id;
  }
  state_->links.emplace(id, std::move(link));
  return id;
}

absl::StatusOr<OperationId> UcxTransport::StartWrite(
    LinkId id, const DataHeader& header, std::vector<std::byte> payload) {
  const auto found = state_->links.find(id);
  if (found == state_->links.end() || !found->second.up) {
    return absl::UnavailableError("ucx link is down");
  }
  auto operation = std::make_unique<State::Operation>();
  operation->header = EncodeDataHeader(header);
  operation->payload = std::move(payload);
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_AM_SEND_FLAG_EAGER | UCP_AM_SEND_FLAG_REPLY;
  operation->request = ucp_am_send_nbx(
      found->second.endpoint->ep, kDataMessage, operation->header.data(),
      operation->header.size(), operation->payload.data(),
      operation->payload.size(), &param);
  if (UCS_PTR_IS_ERR(operation->request)) {
    return FromUcs(UCS_PTR_STATUS(operation->request), "am_send");
  }
  if (operation->request == nullptr) operation->payload = {};
  const OperationId operation_id = NewId();
  state_->operations.emplace(operation_id, std::move(operation));
  return operation_id;
}

absl::StatusOr<OperationId> UcxTransport::StartRead(
    LinkId link, std::vector<ReadPiece> pieces, ReadSink* sink) {
  return absl::UnimplementedError("ucx links are written by the other side");
}

std::optional<absl::Status> UcxTransport::Poll(OperationId operation) {
  const auto found = state_->operations.find(operation);
  SLUICE_CHECK(found != state_->operations.end());
  const ucs_status_ptr_t request = found->second->request;
  ucs_status_t status = UCS_OK;
  if (request != nullptr) {
    status = ucp_request_check_status(request);
    if (status == UCS_INPROGRESS) return std::nullopt;
    ucp_request_free(request);
  }
  state_->operations.erase(found);
  return FromUcs(status, "am_send");
}

bool UcxTransport::Progress(TransportEvents& events, bool may_sleep) {
  State& state = *state_;
  const ucp_worker_h worker = state.context->worker();
  MutexLock lock(UcxDescriptors());
  state.events = &events;
  bool any = false;
  for (int i = 0; i < kProgressTurns && ucp_worker_progress(worker) != 0; ++i) {
    any = true;
  }
  any = state.AcceptAll() || any;
  any = state.HandleHellos(events) || any;
  any = state.HandleErrors(events) || any;
  state.ReapClosed();
  state.events = nullptr;
  if (any || !may_sleep) return any;
  return ucp_worker_arm(worker) != UCS_OK;
}

void UcxTransport::Close(LinkId id) {
  const auto found = state_->links.find(id);
  if (found == state_->links.end()) return;
  if (found->second.endpoint != nullptr) {
    state_->Discard(*found->second.endpoint);
  }
  state_->links.erase(found);
}

}  // namespace sluice::kvtransfer
