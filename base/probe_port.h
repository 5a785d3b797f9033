#ifndef BASE_PROBE_PORT_H_
#define BASE_PROBE_PORT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/health.h"

namespace sluice {

// The plaintext probe port: `GET /livez` and `/readyz` over HTTP/1.1 and
// grpc.health.v1 over HTTP/2, on the same port. AdminHttp accepts, peeks at
// the first bytes and hands a connection that opens with the HTTP/2 preface
// to a gRPC server that listens nowhere (AddInsecureChannelFromFd), so no
// second port and no proxying exist. /livez and /readyz answer 200 or 503 with
// {"status":"ok"|"unavailable","reasons":[...]}; for /livez the reasons are the
// loops that stand still.
class ProbePort {
 public:
  // Errors as AdminHttp::Start. `board` must outlive it.
  static absl::StatusOr<std::unique_ptr<ProbePort>> Start(
      const std::string& address, HealthBoard& board);
  ~ProbePort();

  int port() const;
  const std::string& address() const;  // host:port, as bound

 private:
  struct Parts;
  explicit ProbePort(std::unique_ptr<Parts> parts);

  const std::unique_ptr<Parts> parts_;
};

}  // namespace sluice

#endif  // BASE_PROBE_PORT_H_
