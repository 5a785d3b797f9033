#ifndef TOOLS_LOAD_EXCHANGE_H_
#define TOOLS_LOAD_EXCHANGE_H_

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace sluice {

// One HTTP request and its answer, as the client saw it. The answer is only
// kept here, with the times its bytes came, and read after the load: on two
// cores a busy client would be measured as part of the server.
struct LoadExchange {
  using Time = std::chrono::steady_clock::time_point;
  struct Arrival {
    size_t end = 0;  // body bytes there by then
    Time at;
  };

  Time start;  // before the connection is made
  Time end;    // the last byte, or the error
  int status = 0;
  std::string body;  // without the framing of its chunks
  std::vector<Arrival> arrivals;
  std::string error;  // what kept the answer from being whole; empty: nothing
};

// Where requests go; resolved once.
struct LoadTarget {
  boost::asio::ip::tcp::endpoint endpoint;
  std::string host;                            // for the header, with the port
  std::chrono::milliseconds timeout{600'000};  // of a whole exchange
};

enum class LoadMethod { kGet, kPost };

struct LoadRequest {
  LoadMethod method = LoadMethod::kPost;
  std::string path;
  std::string body;  // JSON, of kPost
};

// Sends `request` on a connection of its own and calls `done` on the thread
// that runs `io`, once, whatever happens. `target` outlives the exchange.
void StartLoadExchange(boost::asio::io_context& io, const LoadTarget& target,
                       LoadRequest request,
                       std::function<void(LoadExchange)> done);

}  // namespace sluice

#endif  // TOOLS_LOAD_EXCHANGE_H_
