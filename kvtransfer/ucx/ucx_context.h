#ifndef KVTRANSFER_UCX_UCX_CONTEXT_H_
#define KVTRANSFER_UCX_UCX_CONTEXT_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "ucp/api/ucp.h"

namespace sluice::kvtransfer {

// OK or kUnavailable with UCX's text.
absl::Status FromUcs(ucs_status_t status, absl::string_view call);

// "ip", "ip:port", "[ip6]:port" -> socket address. kInvalidArgument.
struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;
};
absl::StatusOr<SocketAddress> ParseSocketAddress(const std::string& text);
std::string FormatSocketAddress(const sockaddr_storage& address);

// One UCX context with its worker: active messages and wake-ups only, tcp
// only, on the loopback device when `address` is a loopback one.
class UcxContext {
 public:
  static absl::StatusOr<std::unique_ptr<UcxContext>> Create(
      const SocketAddress& address);
  ~UcxContext();
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;

  ucp_worker_h worker() const { return worker_; }
  absl::StatusOr<int> EventFd() const;

 private:
  UcxContext() = default;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
};

// Held around every call that may open or close descriptors of UCX. Its
// asynchronous events are known by descriptor for the whole process: one that a
// worker has yet to handle when it closes its descriptor would meet another
// worker's, if that took the same number, and abort the process (1.13.1,
// __ucs_async_poll_missed). A call that closes also handles what it missed.
Mutex& UcxDescriptors();

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_UCX_UCX_CONTEXT_H_
