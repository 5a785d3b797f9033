#include "tools/load_exchange.h"

#include <boost/beast/core/error.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/none.hpp>
#include <memory>
#include <utility>

namespace sluice {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

// Keeps itself alive through its handlers.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  Exchange(asio::io_context& io, const LoadTarget& target, LoadRequest request,
           std::function<void(LoadExchange)> done)
      : stream_(io), target_(target), done_(std::move(done)) {
    request_.method(request.method == LoadMethod::kGet ? http::verb::get
                                                       : http::verb::post);
    request_.target(request.path);
    request_.version(11);
    request_.set(http::field::host, target.host);
    request_.set(http::field::connection, "close");
    if (request.method == LoadMethod::kPost) {
      request_.set(http::field::content_type, "application/json");
      request_.body() = std::move(request.body);
    }
    request_.prepare_payload();
    parser_.body_limit(boost::none);
  }

  void Start() {
    seen_.start = std::chrono::steady_clock::now();
    stream_.expires_after(target_.timeout);
    stream_.async_connect(target_.endpoint,
                          [self = shared_from_this()](beast::error_code error) {
                            if (error) return self->Finish("connect", error);
                            self->Write();
                          });
  }

 private:
  void Write() {
    http::async_write(
        stream_, request_,
        [self = shared_from_this()](beast::error_code error, size_t) {
          if (error) return self->Finish("send", error);
          self->Read();
        });
  }

  void Read() {
    http::async_read_some(
        stream_, buffer_, parser_,
        [self = shared_from_this()](beast::error_code error, size_t) {
          self->TakeBytes();
          if (error) return self->Finish("receive", error);
          if (self->parser_.is_done()) return self->Finish("", error);
          self->Read();
        });
  }

  void TakeBytes() {
    const size_t size = parser_.get().body().size();
    if (seen_.arrivals.empty() ? size == 0
                               : size == seen_.arrivals.back().end) {
      return;
    }
    seen_.arrivals.push_back({size, std::chrono::steady_clock::now()});
  }

  void Finish(const char* doing, beast::error_code error) {
    seen_.end = std::chrono::steady_clock::now();
    if (error) seen_.error = std::string(doing) + ": " + error.message();
    seen_.status = parser_.is_header_done() ? parser_.get().result_int() : 0;
    seen_.body = std::move(parser_.get().body());
    beast::error_code ignored;
    stream_.socket().close(ignored);
    done_(std::move(seen_));
  }

  beast::tcp_stream stream_;
  const LoadTarget& target_;
  const std::function<void(LoadExchange)> done_;
  http::request<http::string_body> request_;
  beast::flat_buffer buffer_;
  http::response_parser<http::string_body> parser_;
  LoadExchange seen_;
};

}  // namespace

void StartLoadExchange(asio::io_context& io, const LoadTarget& target,
                       LoadRequest request,
                       std::function<void(LoadExchange)> done) {
  std::make_shared<Exchange>(io, target, std::move(request), std::move(done))
      ->Start();
}

}  // namespace sluice
