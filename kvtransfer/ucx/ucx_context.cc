#include "kvtransfer/ucx/ucx_context.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::kvtransfer {
namespace {

bool IsLoopback(const SocketAddress& address) {
  if (address.storage.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&address.storage);
    return ntohl(in->sin_addr.s_addr) >> 24 == 127;
  }
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
  return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

}  // namespace

absl::Status FromUcs(ucs_status_t status, absl::string_view call) {
  if (status == UCS_OK) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("ucx ", call, ": ", ucs_status_string(status)));
}

absl::StatusOr<SocketAddress> ParseSocketAddress(const std::string& text) {
  std::string host = text;
  uint32_t port = 0;
  const size_t colon = text.rfind(':');
  const bool bracketed = !text.empty() && text.front() == '[';
  const bool has_port =
      colon != std::string::npos &&
      (bracketed ? text[colon - 1] == ']' : text.find(':') == colon);
  bool ok = !has_port ||
            (absl::SimpleAtoi(text.substr(colon + 1), &port) && port < 65536);
  if (has_port) host = text.substr(0, colon);
  if (bracketed) {
    ok = ok && host.back() == ']';
    host = host.substr(1, host.size() - 2);
  }
  SocketAddress address;
  auto* in = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* in6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, host.c_str(), &in->sin_addr) == 1) {
    in->sin_family = AF_INET;
    in->sin_port = htons(static_cast<uint16_t>(port));
    address.length = sizeof *in;
  } else if (inet_pton(AF_INET6, host.c_str(), &in6->sin6_addr) == 1) {
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(static_cast<uint16_t>(port));
    address.length = sizeof *in6;
  } else {
    ok = false;
  }
  if (!ok) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv address \"", text, "\" is no ip[:port]"));
  }
  return address;
}

std::string FormatSocketAddress(const sockaddr_storage& address) {
  char host[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&address);
    inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
    return absl::StrCat(host, ":", ntohs(in->sin_port));
  }
  const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&address);
  inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
  return absl::StrCat("[", host, "]:", ntohs(in6->sin6_port));
}

absl::StatusOr<std::unique_ptr<UcxContext>> UcxContext::Create(
    const SocketAddress& address) {
  ucp_config_t* config = nullptr;
  RETURN_IF_ERROR(
      FromUcs(ucp_config_read(nullptr, nullptr, &config), "config_read"));
  // Rendezvous would let a death go unseen: everything is eager.
  const struct {
    const char* name;
    const char* value;
  } settings[] = {{"TLS", "tcp"},
                  {"NET_DEVICES", IsLoopback(address) ? "lo" : "all"},
                  {"RNDV_THRESH", "inf"},
                  // A message in one piece, from where it lies: with the
                  // defaults it is copied and cut into pieces of 64 KiB, which
                  // costs a quarter of the rate.
                  {"ZCOPY_THRESH", "1k"},
                  // UCX_TCP_RX_SEG_SIZE, by the only name that reaches it from
                  // here (1.13.1): with a prefix it is ignored.
                  {"RX_SEG_SIZE", "256k"},
                  {"KEEPALIVE_INTERVAL", "1s"}};
  ucs_status_t status = UCS_OK;
  for (const auto& setting : settings) {
    if (status == UCS_OK) {
      status = ucp_config_modify(config, setting.name, setting.value);
    }
  }
  auto result = std::unique_ptr<UcxContext>(new UcxContext);
  ucp_params_t params = {};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  if (status == UCS_OK) status = ucp_init(&params, config, &result->context_);
  ucp_config_release(config);
  RETURN_IF_ERROR(FromUcs(status, "init"));
  ucp_worker_params_t worker = {};
  worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  // Made by one thread, used by another.
  worker.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  RETURN_IF_ERROR(
      FromUcs(ucp_worker_create(result->context_, &worker, &result->worker_),
              "worker_create"));
  return result;
}

UcxContext::~UcxContext() {
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

absl::StatusOr<int> UcxContext::EventFd() const {
  int fd = -1;
  RETURN_IF_ERROR(FromUcs(ucp_worker_get_efd(worker_, &fd), "get_efd"));
  return fd;
}

Mutex& UcxDescriptors() {
  static Mutex mutex;
  return mutex;
}

}  // namespace sluice::kvtransfer
