#include "tools/load_exchange.h"

#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/streambuf.hpp>
#include <boost/asio/write.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

// Takes one connection, reads a request's head and writes `answer`.
class OneAnswer {
 public:
  explicit OneAnswer(std::string answer)
      : acceptor_(io_, {asio::ip::address_v4::loopback(), 0}),
        thread_([this, answer = std::move(answer)] {
          tcp::socket socket(io_);
          acceptor_.accept(socket);
          asio::streambuf head;
          const size_t size = asio::read_until(socket, head, "\r\n\r\n");
          request_.assign(asio::buffers_begin(head.data()),
                          asio::buffers_begin(head.data()) +
                              static_cast<std::ptrdiff_t>(size));
          asio::write(socket, asio::buffer(answer));
          socket.shutdown(tcp::socket::shutdown_send);
          // Until the client has closed, so that nothing is reset.
          boost::system::error_code error;
          asio::read(socket, head, error);
        }) {}
  ~OneAnswer() { Join(); }

  tcp::endpoint endpoint() const { return acceptor_.local_endpoint(); }
  const std::string& Join() {
    if (thread_.joinable()) thread_.join();
    return request_;
  }

 private:
  asio::io_context io_;
  tcp::acceptor acceptor_;
  std::string request_;
  std::thread thread_;
};

LoadExchange Exchange(const tcp::endpoint& endpoint, LoadRequest request) {
  asio::io_context io;
  const LoadTarget target = {.endpoint = endpoint, .host = "test:1"};
  std::vector<LoadExchange> seen;
  StartLoadExchange(io, target, std::move(request),
                    [&seen](LoadExchange e) { seen.push_back(std::move(e)); });
  io.run();
  EXPECT_EQ(seen.size(), 1u);
  return seen.at(0);
}

constexpr char kChunked[] =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

struct Case {
  const char* name;
  std::string answer;
  int status;
  const char* body;
  bool whole;
};

TEST(LoadExchangeTest, ReadsAnswers) {
  const std::string chunked = kChunked;
  const Case cases[] = {
      {"chunks", chunked + "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, "abcde",
       true},
      {"broken off between chunks", chunked + "3\r\nabc\r\n", 200, "abc",
       false},
      {"broken off inside a chunk", chunked + "5\r\nabc", 200, "abc", false},
      {"length", "HTTP/1.1 429 Busy\r\nContent-Length: 4\r\n\r\nbusy", 429,
       "busy", true},
      {"until the end", "HTTP/1.0 200 OK\r\n\r\nxyz", 200, "xyz", true},
      {"not HTTP", "hello\r\n\r\n", 0, "", false},
      {"nothing", "", 0, "", false},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    OneAnswer server(c.answer);
    const LoadExchange seen =
        Exchange(server.endpoint(), {.path = "/p", .body = "{}"});
    EXPECT_EQ(seen.error.empty(), c.whole) << seen.error;
    EXPECT_EQ(seen.status, c.status);
    EXPECT_EQ(seen.body, c.body);
    EXPECT_LE(seen.start, seen.end);
    if (seen.body.empty()) continue;
    ASSERT_FALSE(seen.arrivals.empty());
    EXPECT_EQ(seen.arrivals.back().end, seen.body.size());
  }
}

TEST(LoadExchangeTest, SendsWhatWasAsked) {
  const std::string empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
  OneAnswer post(empty);
  Exchange(post.endpoint(), {.path = "/v1/completions", .body = "{\"a\":1}"});
  const std::string head = post.Join();
  EXPECT_EQ(head.substr(0, 31), "POST /v1/completions HTTP/1.1\r\n");
  EXPECT_NE(head.find("Content-Length: 7\r\n"), std::string::npos) << head;
  EXPECT_NE(head.find("Host: test:1\r\n"), std::string::npos) << head;

  OneAnswer get(empty);
  Exchange(get.endpoint(),
           {.method = LoadMethod::kGet, .path = "/v1/models", .body = ""});
  EXPECT_EQ(get.Join().substr(0, 25), "GET /v1/models HTTP/1.1\r\n");
}

TEST(LoadExchangeTest, SaysThatNobodyListens) {
  tcp::endpoint nobody;
  {
    asio::io_context io;
    tcp::acceptor acceptor(io, {asio::ip::address_v4::loopback(), 0});
    nobody = acceptor.local_endpoint();
  }
  const LoadExchange seen = Exchange(nobody, {.path = "/", .body = ""});
  EXPECT_EQ(seen.status, 0);
  EXPECT_EQ(seen.error.substr(0, 9), "connect: ") << seen.error;
}

}  // namespace
}  // namespace sluice
