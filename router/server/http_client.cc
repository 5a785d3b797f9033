#include "router/server/http_client.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace sluice::router {
namespace {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr int64_t kSmokeTimeoutMs = 60'000;

// Runs one asynchronous step to its end; true when it succeeded.
template <typename StartStep>
bool RunStep(net::io_context& io, beast::error_code& error, StartStep start) {
  bool done = false;
  start([&](beast::error_code e, auto&&...) {
    error = e;
    done = true;
  });
  io.restart();
  while (!done && io.run_one() > 0) {
  }
  return done && !error;
}

}  // namespace

absl::StatusOr<HttpAnswerText> HttpCall(const std::string& address,
                                        const std::string& path,
                                        const std::string& body,
                                        int64_t timeout_ms) {
  net::io_context io;
  beast::tcp_stream stream(io);
  stream.expires_after(std::chrono::milliseconds(timeout_ms));
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("`", address, "` is not an address host:port"));
  }
  beast::error_code error;
  net::ip::tcp::resolver resolver(io);
  const auto endpoints = resolver.resolve(address.substr(0, colon),
                                          address.substr(colon + 1), error);
  http::request<http::string_body> request(
      body.empty() ? http::verb::get : http::verb::post, path, 11);
  request.set(http::field::host, address);
  request.set(http::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();
  beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(64 << 20);
  const bool ok = !error && RunStep(io, error, [&](auto done) {
    stream.async_connect(endpoints, done);
  }) && RunStep(io, error, [&](auto done) {
    http::async_write(stream, request, done);
  }) && RunStep(io, error, [&](auto done) {
    http::async_read(stream, buffer, parser, done);
  });
  if (!ok) {
    return absl::UnavailableError(absl::StrCat(
        "no answer from http://", address, path, ": ", error.message()));
  }
  HttpAnswerText answer;
  answer.status = parser.get().result_int();
  for (const auto& field : parser.get()) {
    absl::StrAppend(&answer.head, std::string(field.name_string()), ": ",
                    std::string(field.value()), "\n");
  }
  answer.body = std::move(parser.get().body());
  return answer;
}

absl::StatusOr<std::string> HttpSmokeTest(const std::string& address) {
  ASSIGN_OR_RETURN(const HttpAnswerText models,
                   HttpCall(address, "/v1/models", "", kSmokeTimeoutMs));
  const auto list = nlohmann::json::parse(models.body, nullptr, false);
  if (models.status != 200 || !list.is_object() || list["data"].empty()) {
    return absl::UnavailableError(
        absl::StrCat("no model at http://", address, ": ", models.status));
  }
  const nlohmann::json body = {
      {"model", list["data"][0]["id"]},
      {"max_tokens", 16},
      {"temperature", 0},
      {"messages", {{{"role", "user"}, {"content", "Say hello."}}}}};
  ASSIGN_OR_RETURN(
      const HttpAnswerText chat,
      HttpCall(address, "/v1/chat/completions", body.dump(), kSmokeTimeoutMs));
  const auto reply = nlohmann::json::parse(chat.body, nullptr, false);
  if (chat.status != 200 || !reply.is_object()) {
    return absl::InternalError(
        absl::StrCat("chat answered ", chat.status, ": ", chat.body));
  }
  const auto& content = reply["choices"][0]["message"]["content"];
  if (!content.is_string() || content.get<std::string>().empty()) {
    return absl::InternalError("chat answered nothing");
  }
  return content.get<std::string>();
}

}  // namespace sluice::router
