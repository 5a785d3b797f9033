#include "router/server/http_session.h"

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <exception>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "router/server/http_answer.h"

namespace sluice::router {
namespace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using std::chrono::milliseconds;

// What a client may send ahead while its answer runs.
constexpr size_t kMaxReadAheadBytes = 64 << 10;
// What may wait for a client that does not read its stream.
constexpr size_t kMaxQueueBytes = 8 << 20;

using TimePoint = std::chrono::steady_clock::time_point;
using Duration = std::chrono::steady_clock::duration;

TimePoint Now() { return std::chrono::steady_clock::now(); }

// Of a flow whose reply is written without it.
class Deaf final : public FlowListener {
 public:
  void OnStarted(const StartedEvent&) override {}
  void OnDelta(v1::TokenDelta) override {}
  void OnChoiceEnd(const v1::ChoiceEnd&) override {}
  void OnEnd(const EndEvent&) override {}
};

HttpError PlainError(int status, std::string message) {
  HttpError error = BadRequest(std::move(message));
  error.status = status;
  return error;
}

// One connection on one strand. At any time it is reading a request, having it
// computed or answered (with a read pending, to see the client leave), or
// writing.
class HttpSession final : public HttpConnection,
                          public AnswerSink,
                          public std::enable_shared_from_this<HttpSession> {
 public:
  HttpSession(net::ip::tcp::socket socket, std::shared_ptr<HttpShared> shared,
              std::function<void(HttpConnection*)> on_closed)
      : socket_(std::move(socket)),
        executor_(socket_.get_executor()),
        timer_(socket_.get_executor()),
        write_timer_(socket_.get_executor()),
        comment_timer_(socket_.get_executor()),
        shared_(std::move(shared)),
        on_closed_(std::move(on_closed)) {
    shared_->connections->Set(++shared_->open);
  }
  ~HttpSession() override { shared_->connections->Set(--shared_->open); }

  void Start() override {
    error_code ignored;
    socket_.set_option(net::ip::tcp::no_delay(true), ignored);
    net::post(socket_.get_executor(),
              [self = shared_from_this()] { self->ReadHeader(true); });
  }

  void Close() override {
    net::post(socket_.get_executor(),
              [self = shared_from_this()] { self->Shut(); });
  }

  void SendReply(HttpReply reply) override { WriteReply(reply); }

  void BeginStream(
      std::vector<std::pair<std::string, std::string>> headers) override {
    if (shared_->draining.load()) keep_alive_ = false;
    streaming_ = true;
    chunked_ = version_ >= 11;
    if (!chunked_) keep_alive_ = false;
    std::string head = absl::StrCat(
        "HTTP/1.1 200 OK\r\n"
        "Content-Type: text/event-stream; charset=utf-8\r\n"
        "Cache-Control: no-store\r\nX-Accel-Buffering: no\r\n",
        chunked_ ? "Transfer-Encoding: chunked\r\n" : "",
        keep_alive_ ? "" : "Connection: close\r\n");
    for (const auto& [name, value] : headers) {
      absl::StrAppend(&head, name, ": ", value, "\r\n");
    }
    absl::StrAppend(&head, "\r\n");
    Write({head}, nullptr);
    last_event_ = Now();
    ArmComment(milliseconds(shared_->options.keep_alive_comment_ms));
  }

  void SendEvents(absl::string_view bytes,
                  std::function<void()> written) override {
    last_event_ = Now();
    if (!chunked_) return Write({bytes}, std::move(written));
    const absl::AlphaNum size(absl::Hex(bytes.size()));
    Write({size.Piece(), "\r\n", bytes, "\r\n"}, std::move(written));
  }

  void EndStream() override {
    comment_timer_.cancel();
    streaming_ = false;
    if (chunked_) Write({"0\r\n\r\n"}, nullptr);
    FinishAnswer();
  }

 private:
  using Parser = http::request_parser<http::string_body>;

  // --- reading ------------------------------------------------------------

  void ReadHeader(bool first) {
    if (closed_) return;
    if (buffer_.size() == 0) {
      // Wait for a byte, then the header's clock starts.
      SetTimer(first ? shared_->options.header_timeout_ms
                     : shared_->options.idle_timeout_ms,
               [this] { Shut(); });
      socket_.async_wait(net::ip::tcp::socket::wait_read,
                         [self = shared_from_this()](error_code error) {
                           if (error) return self->Shut();
                           self->ReadHeaderNow();
                         });
      return;
    }
    ReadHeaderNow();
  }

  void ReadHeaderNow() {
    if (closed_) return;
    parser_.emplace();
    parser_->header_limit(shared_->options.max_header_bytes);
    parser_->body_limit(shared_->options.max_body_bytes);
    request_id_.clear();
    received_us_ = SystemClock::Get().NowMicros();
    SetTimer(shared_->options.header_timeout_ms, [this] {
      if (buffer_.size() == 0) return Shut();
      Refuse(PlainError(408, "the request's header took too long"), "timeout");
    });
    reading_ = true;
    http::async_read_header(
        socket_, buffer_, *parser_,
        [self = shared_from_this()](error_code error, size_t) {
          self->OnHeader(error);
        });
  }

  void OnHeader(error_code error) {
    reading_ = false;
    if (closed_ || answering_) return;
    if (lingering_) return error ? Shut() : Discard();
    if (error == http::error::header_limit) {
      return Refuse(PlainError(431, "the header block is too large"),
                    "header_limit");
    }
    if (error == http::error::body_limit) {
      return Refuse(BodyTooLarge(), "body_limit");
    }
    if (error == http::error::end_of_stream || error == net::error::eof ||
        error == http::error::partial_message ||
        error == net::error::connection_reset ||
        error == net::error::operation_aborted) {
      return Shut();
    }
    if (error) {
      return Refuse(PlainError(400, absl::StrCat("malformed HTTP request: ",
                                                 error.message())),
                    "malformed");
    }
    const auto& head = parser_->get();
    if (head.target().size() > shared_->options.max_target_bytes) {
      return Refuse(
          PlainError(414, absl::StrCat("the URL has ", head.target().size(),
                                       " bytes, limit ",
                                       shared_->options.max_target_bytes)),
          "target_limit");
    }
    if (const auto length = parser_->content_length();
        length && *length > shared_->options.max_body_bytes) {
      return Refuse(BodyTooLarge(), "body_limit");
    }
    SetTimer(shared_->options.body_timeout_ms, [this] {
      Refuse(PlainError(408, "the request's body took too long"), "timeout");
    });
    if (absl::AsciiStrToLower(std::string(head[http::field::expect])) ==
        "100-continue") {
      Write({"HTTP/1.1 100 Continue\r\n\r\n"}, nullptr);
    }
    reading_ = true;
    http::async_read(socket_, buffer_, *parser_,
                     [self = shared_from_this()](error_code error, size_t) {
                       self->OnBody(error);
                     });
  }

  HttpError BodyTooLarge() const {
    return PlainError(413,
                      absl::StrCat("the body is larger than ",
                                   shared_->options.max_body_bytes, " bytes"));
  }

  void OnBody(error_code error) {
    reading_ = false;
    if (closed_ || answering_) return;
    if (lingering_) return error ? Shut() : Discard();
    if (error == http::error::body_limit) {
      return Refuse(BodyTooLarge(), "body_limit");
    }
    if (error == http::error::partial_message || error == net::error::eof ||
        error == net::error::connection_reset ||
        error == net::error::operation_aborted) {
      return Shut();
    }
    if (error) {
      return Refuse(PlainError(400, absl::StrCat("malformed HTTP body: ",
                                                 error.message())),
                    "malformed");
    }
    CancelTimer();
    HttpRequest request = TakeHead();
    http::request<http::string_body> message = parser_->release();
    version_ = message.version();
    keep_alive_ = message.keep_alive() && !shared_->draining.load();
    request.body = std::move(message.body());
    Handle(std::move(request));
  }

  // What the parser knows of the request, without its body.
  HttpRequest TakeHead() const {
    const auto& message = parser_->get();
    HttpRequest request;
    request.method = std::string(message.method_string());
    const std::string target(message.target());
    const size_t query = target.find('?');
    request.path = target.substr(0, query);
    if (query != std::string::npos) request.query = target.substr(query + 1);
    for (const auto& field : message) {
      request.headers.emplace_back(
          absl::AsciiStrToLower(std::string(field.name_string())),
          std::string(field.value()));
    }
    request.received_us = received_us_;
    return request;
  }

  // A request that cannot be read to its end: reply, then close.
  void Refuse(const HttpError& error, const char* reason) {
    if (closed_ || answering_ || lingering_) return;
    shared_->bad_input->With({"openai", reason}).Add(1);
    answering_ = true;
    keep_alive_ = false;
    head_only_ = false;
    // A body that is too large is found at the header's end.
    if (parser_->is_header_done() || error.status == 413) {
      const HttpRequest request = TakeHead();
      const std::string ours = RandomHexId(16);
      request_id_ = RequestIdFor(request, ours);
      if (request.method == "POST" && IsGeneration(request.path)) {
        CountRefused(RefusedCall(request, {}, error), ours);
      }
    }
    WriteReply(ErrorReply(error));
  }

  // A generation that no flow saw is counted and logged by one that only ends.
  void CountRefused(GenerateCall call, const std::string& request_id) const {
    call.request.set_request_id(request_id);
    shared_->router->NewFlow(std::move(call), std::make_shared<Deaf>())
        ->Start();
  }

  // --- answering ----------------------------------------------------------

  void Handle(HttpRequest request) {
    answering_ = true;
    head_only_ = request.method == "HEAD";
    const std::string ours = RandomHexId(16);
    request_id_ = RequestIdFor(request, ours);
    if (request.method != "POST") {
      WriteReply(*Route(request).reply);
      return;
    }
    WatchClient();
    // What is packed may be far larger.
    const size_t body_bytes = request.Header("content-encoding").empty()
                                  ? request.body.size()
                                  : shared_->options.max_body_bytes;
    auto shared_request = std::make_shared<HttpRequest>(std::move(request));
    shared_->compute->Post(body_bytes, [self = shared_from_this(), ours,
                                        request = std::move(shared_request)] {
      self->Compute(std::move(*request), ours);
    });
  }

  // On a compute thread: touches nothing of the strand's.
  void Compute(HttpRequest request, const std::string& ours) {
    RouteResult result = Route(request);
    const std::string client_id = RequestIdFor(request, "");
    request = HttpRequest();  // a large body is not needed twice
    if (result.reply.has_value()) {
      const bool bad =
          result.reply->status == 400 || result.reply->status == 415;
      if (result.refused.has_value()) {
        CountRefused(*std::move(result.refused), ours);
      } else if (bad) {
        shared_->bad_input->With({"openai", "request"}).Add(1);
      }
      net::post(executor_,
                [self = shared_from_this(), reply = *std::move(result.reply)] {
                  if (!self->closed_) self->WriteReply(reply);
                });
      return;
    }
    const std::shared_ptr<HttpAnswer> answer = HttpAnswer::Make(
        std::move(result.generate), client_id, *shared_->router,
        [io = shared_->io, executor = executor_](std::function<void()> task) {
          net::post(executor, std::move(task));
        },
        shared_from_this());
    // Comes before anything the flows post.
    net::post(executor_, [self = shared_from_this(), answer] {
      if (self->closed_) return answer->Abandon();
      self->answer_ = answer;
    });
    answer->Start();
  }

  // A library that throws costs one request, not the process.
  RouteResult Route(const HttpRequest& request) const {
    try {
      return RouteHttp(request, *shared_->router, shared_->options.routes);
    } catch (const std::exception& e) {
      Log(kError, "request handler threw",
          {{"path", request.path}, {"error", e.what()}});
      HttpError error;
      error.message = "internal error";
      return {.reply = ErrorReply(error)};
    }
  }

  // Keeps a read pending while an answer runs: its end is the client's.
  void WatchClient() {
    if (watching_ || closed_ || buffer_.size() >= kMaxReadAheadBytes) return;
    watching_ = true;
    socket_.async_read_some(
        buffer_.prepare(4096),
        [self = shared_from_this()](error_code error, size_t bytes) {
          self->watching_ = false;
          // Called off by AfterAnswer(): what was read is the next request.
          const bool called_off = error == net::error::operation_aborted &&
                                  !self->answering_ && !self->lingering_;
          if (error && !called_off) return self->Shut();
          self->buffer_.commit(bytes);
          if (self->lingering_) return self->Discard();
          if (self->answering_) return self->WatchClient();
          self->ReadHeaderNow();
        });
  }

  void WriteReply(const HttpReply& reply) {
    if (shared_->draining.load()) keep_alive_ = false;
    const bool empty = reply.status == 204;
    std::string head = absl::StrCat(
        "HTTP/1.1 ", reply.status, " ",
        std::string(http::obsolete_reason(http::int_to_status(reply.status))),
        "\r\n");
    if (!empty) {
      absl::StrAppend(&head, "Content-Type: ", reply.content_type,
                      "\r\nContent-Length: ", reply.body.size(), "\r\n");
    }
    if (!keep_alive_) {
      absl::StrAppend(&head, "Connection: close\r\n");
    } else if (version_ < 11) {
      absl::StrAppend(&head, "Connection: keep-alive\r\n");
    }
    bool has_id = false;
    for (const auto& [name, value] : reply.headers) {
      has_id = has_id || name == "x-request-id";
      absl::StrAppend(&head, name, ": ", value, "\r\n");
    }
    if (!has_id && !request_id_.empty()) {
      absl::StrAppend(&head, "x-request-id: ", request_id_, "\r\n");
    }
    absl::StrAppend(&head, "\r\n");
    if (!head_only_ && !empty) head += reply.body;
    Write({head}, nullptr);
    FinishAnswer();
  }

  // The whole answer is in the queue; goes on when it is written.
  void FinishAnswer() {
    answer_ = nullptr;
    finishing_ = true;
    if (!writing_) AfterAnswer();
  }

  void AfterAnswer() {
    finishing_ = false;
    answering_ = false;
    if (!keep_alive_) return Linger();
    // A pending watch becomes the wait for the next request, unless it has
    // already read that.
    if (watching_) {
      SetTimer(shared_->options.idle_timeout_ms, [this] { Shut(); });
      error_code ignored;
      if (buffer_.size() > 0) socket_.cancel(ignored);
      return;
    }
    ReadHeader(false);
  }

  // Lets the client read the reply before the socket goes.
  void Linger() {
    lingering_ = true;
    error_code ignored;
    socket_.shutdown(net::ip::tcp::socket::shutdown_send, ignored);
    SetTimer(1000, [this] { Shut(); });
    if (!watching_ && !reading_) Discard();
  }

  void Discard() {
    buffer_.clear();
    socket_.async_read_some(
        buffer_.prepare(4096),
        [self = shared_from_this()](error_code error, size_t) {
          if (error || self->closed_) return self->Shut();
          self->Discard();
        });
  }

  // --- writing ------------------------------------------------------------

  void Write(std::initializer_list<absl::string_view> pieces,
             std::function<void()> written) {
    if (closed_) return;
    // One event may be larger: the prompt's log probabilities are.
    if (streaming_ && queue_.size() > kMaxQueueBytes) {
      return Shut();  // the reader is hopelessly behind
    }
    for (const absl::string_view piece : pieces) {
      queue_.append(piece.data(), piece.size());
    }
    if (written) queued_callbacks_.push_back(std::move(written));
    if (!writing_) WriteNext();
  }

  void WriteNext() {
    writing_ = true;
    written_bytes_ = 0;
    current_.swap(queue_);
    queue_.clear();
    current_callbacks_.swap(queued_callbacks_);
    queued_callbacks_.clear();
    WriteSome();
  }

  void WriteSome() {
    write_begin_ = Now();
    if (!write_timer_armed_) {
      ArmWriteTimer(milliseconds(shared_->options.write_stall_ms));
    }
    socket_.async_write_some(
        net::buffer(current_) + written_bytes_,
        [self = shared_from_this()](error_code error, size_t bytes) {
          self->written_bytes_ += bytes;
          if (!error && self->written_bytes_ < self->current_.size()) {
            return self->WriteSome();
          }
          self->OnWritten(error);
        });
  }

  // A client that takes nothing for write_stall_ms is ended. The timer looks
  // now and then, because setting it anew for each token costs more than the
  // token.
  void ArmWriteTimer(Duration wait) {
    write_timer_armed_ = true;
    write_timer_.expires_after(wait);
    write_timer_.async_wait([self = shared_from_this()](error_code error) {
      self->write_timer_armed_ = false;
      if (error || self->closed_ || !self->writing_) return;
      const Duration left =
          self->write_begin_ +
          milliseconds(self->shared_->options.write_stall_ms) - Now();
      if (left <= Duration::zero()) return self->Shut();
      self->ArmWriteTimer(left);
    });
  }

  void OnWritten(error_code error) {
    writing_ = false;
    if (error) return Shut();
    const std::vector<std::function<void()>> callbacks =
        std::move(current_callbacks_);
    current_callbacks_.clear();
    for (const std::function<void()>& callback : callbacks) callback();
    if (closed_ || writing_) return;
    if (!queue_.empty()) {
      WriteNext();
    } else if (finishing_) {
      AfterAnswer();
    }
  }

  // --- timers and end -----------------------------------------------------

  // An expiry that is already queued when the timer is set anew or cancelled
  // does nothing.
  void SetTimer(uint32_t ms, std::function<void()> expired) {
    const uint64_t id = ++timer_id_;
    timer_.expires_after(milliseconds(ms));
    timer_.async_wait([self = shared_from_this(), id,
                       expired = std::move(expired)](error_code error) {
      if (!error && !self->closed_ && id == self->timer_id_) expired();
    });
  }

  void CancelTimer() {
    ++timer_id_;
    timer_.cancel();
  }

  // Looks now and then, like the write timer.
  void ArmComment(Duration wait) {
    comment_timer_.expires_after(wait);
    comment_timer_.async_wait([self = shared_from_this()](error_code error) {
      if (error || self->closed_ || !self->streaming_) return;
      const milliseconds silence(self->shared_->options.keep_alive_comment_ms);
      Duration left = self->last_event_ + silence - Now();
      if (left <= Duration::zero()) {
        self->SendEvents(": keep-alive\n\n", nullptr);
        left = silence;
      }
      self->ArmComment(left);
    });
  }

  void Shut() {
    if (std::exchange(closed_, true)) return;
    CancelTimer();
    write_timer_.cancel();
    comment_timer_.cancel();
    if (answer_ != nullptr) std::exchange(answer_, nullptr)->Abandon();
    error_code ignored;
    socket_.close(ignored);
    if (on_closed_) on_closed_(this);
  }

  net::ip::tcp::socket socket_;
  const net::any_io_executor executor_;  // the strand; any thread
  net::steady_timer timer_;
  uint64_t timer_id_ = 0;
  net::steady_timer write_timer_;
  net::steady_timer comment_timer_;
  const std::shared_ptr<HttpShared> shared_;
  const std::function<void(HttpConnection*)> on_closed_;

  boost::beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  int64_t received_us_ = 0;
  unsigned version_ = 11;
  bool keep_alive_ = true;
  bool head_only_ = false;
  std::string request_id_;

  // Null also while the request is still computed.
  std::shared_ptr<HttpAnswer> answer_;
  bool answering_ = false;
  bool finishing_ = false;
  bool streaming_ = false;
  bool chunked_ = false;
  bool watching_ = false;
  bool reading_ = false;
  bool lingering_ = false;
  bool closed_ = false;

  TimePoint last_event_;
  TimePoint write_begin_;
  bool write_timer_armed_ = false;
  std::string queue_;
  std::string current_;
  size_t written_bytes_ = 0;
  std::vector<std::function<void()>> queued_callbacks_;
  std::vector<std::function<void()>> current_callbacks_;
  bool writing_ = false;
};

}  // namespace

std::shared_ptr<HttpConnection> MakeHttpSession(
    net::ip::tcp::socket socket, std::shared_ptr<HttpShared> shared,
    std::function<void(HttpConnection*)> on_closed) {
  return std::make_shared<HttpSession>(std::move(socket), std::move(shared),
                                       std::move(on_closed));
}

}  // namespace sluice::router
