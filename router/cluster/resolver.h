#ifndef ROUTER_CLUSTER_RESOLVER_H_
#define ROUTER_CLUSTER_RESOLVER_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"

namespace sluice::router {

struct ResolverOptions {
  std::vector<std::string> fixed;  // host:port, one worker each
  std::vector<std::string> dns;    // host:port, every address is a worker
  int64_t interval_ms = 1000;
  // "host:port" -> its addresses; default: the system's resolver. May block.
  std::function<absl::StatusOr<std::vector<std::string>>(const std::string&)>
      look_up;
  // Gets the whole set, sorted and without repeats, whenever it changes; on
  // the resolver's thread, first during Start() with the fixed ones.
  std::function<void(std::vector<std::string>)> on_change;
};

// Where workers may be: a fixed list, and names looked up again and again on a
// thread of its own. A name that fails keeps the addresses it last had.
class Resolver {
 public:
  explicit Resolver(ResolverOptions options) : options_(std::move(options)) {}

  void Start();
  // Joins the thread; a look-up in progress is waited for.
  void Stop();

 private:
  void Run(const std::stop_token& stop);

  const ResolverOptions options_;
  std::jthread thread_;
};

// Splits "host:port", "[v6]:port". kInvalidArgument naming the text.
struct HostPort {
  std::string host;
  std::string port;
};
absl::StatusOr<HostPort> ParseHostPort(const std::string& text);

// All A and AAAA addresses of "host:port", as "1.2.3.4:port" or "[::1]:port".
// Blocks. kUnavailable: the name has none now.
absl::StatusOr<std::vector<std::string>> LookUpAddresses(
    const std::string& host_port);

}  // namespace sluice::router

#endif  // ROUTER_CLUSTER_RESOLVER_H_
