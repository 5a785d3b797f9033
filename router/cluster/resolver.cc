#include "router/cluster/resolver.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/thread.h"

namespace sluice::router {
namespace {

// Waits `ms` or until a stop is asked for; true if it was.
bool StoppedWithin(const std::stop_token& stop, int64_t ms) {
  std::mutex mu;
  std::condition_variable_any wake;
  std::unique_lock<std::mutex> lock(mu);
  wake.wait_until(
      lock, stop,
      std::chrono::system_clock::now() + std::chrono::milliseconds(ms),
      [] { return false; });
  return stop.stop_requested();
}

std::string FormatAddress(const addrinfo& entry, const std::string& port) {
  char text[INET6_ADDRSTRLEN] = "";
  if (entry.ai_family == AF_INET) {
    sockaddr_in in;
    memcpy(&in, entry.ai_addr, sizeof(in));
    inet_ntop(AF_INET, &in.sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", port);
  }
  sockaddr_in6 in6;
  memcpy(&in6, entry.ai_addr, sizeof(in6));
  inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof(text));
  return absl::StrCat("[", text, "]:", port);
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(const std::string& text) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("`", text, "` is not host:port"));
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return bad();
  HostPort result{.host = text.substr(0, colon),
                  .port = text.substr(colon + 1)};
  uint32_t port = 0;
  if (!absl::SimpleAtoi(result.port, &port) || port == 0 || port > 65535) {
    return bad();
  }
  if (result.host.front() == '[') {
    if (result.host.size() < 3 || result.host.back() != ']') return bad();
    result.host = result.host.substr(1, result.host.size() - 2);
  } else if (result.host.find(':') != std::string::npos) {
    return bad();
  }
  return result;
}

absl::StatusOr<std::vector<std::string>> LookUpAddresses(
    const std::string& host_port) {
  ASSIGN_OR_RETURN(HostPort parts, ParseHostPort(host_port));
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (int error = getaddrinfo(parts.host.c_str(), nullptr, &hints, &list);
      error != 0) {
    return absl::UnavailableError(absl::StrCat("cannot resolve `", parts.host,
                                               "`: ", gai_strerror(error)));
  }
  std::vector<std::string> addresses;
  for (addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family == AF_INET || entry->ai_family == AF_INET6) {
      addresses.push_back(FormatAddress(*entry, parts.port));
    }
  }
  freeaddrinfo(list);
  return addresses;
}

void Resolver::Start() {
  std::set<std::string> fixed(options_.fixed.begin(), options_.fixed.end());
  options_.on_change({fixed.begin(), fixed.end()});
  if (options_.dns.empty()) return;
  thread_ = StartThread("resolver",
                        [this](const std::stop_token& stop) { Run(stop); });
}

void Resolver::Stop() {
  if (thread_.joinable()) {
    thread_.request_stop();
    thread_.join();
  }
}

void Resolver::Run(const std::stop_token& stop) {
  std::map<std::string, std::vector<std::string>> known;
  std::map<std::string, bool> failing;
  std::set<std::string> last(options_.fixed.begin(), options_.fixed.end());
  do {
    for (const std::string& name : options_.dns) {
      auto found =
          options_.look_up ? options_.look_up(name) : LookUpAddresses(name);
      if (found.ok() == failing[name]) {
        failing[name] = !found.ok();
        Log(found.ok() ? kInfo : kWarn,
            found.ok() ? "name resolves again" : "name does not resolve",
            {{"peer", name}, {"cause", found.status().message()}});
      }
      if (found.ok()) known[name] = *std::move(found);
    }
    std::set<std::string> all(options_.fixed.begin(), options_.fixed.end());
    for (const auto& [name, addresses] : known) {
      all.insert(addresses.begin(), addresses.end());
    }
    if (all != last) {
      last = all;
      options_.on_change({all.begin(), all.end()});
    }
  } while (!StoppedWithin(stop, options_.interval_ms));
}

}  // namespace sluice::router
