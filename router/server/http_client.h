#ifndef ROUTER_SERVER_HTTP_CLIENT_H_
#define ROUTER_SERVER_HTTP_CLIENT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace sluice::router {

struct HttpAnswerText {
  int status = 0;
  std::string head;  // status line and header lines
  std::string body;  // chunks joined
};

// One POST of a JSON body, or a GET when `body` is empty, to
// http://address/path, on a connection of its own. Blocks at most
// `timeout_ms`. kUnavailable when there is no answer.
absl::StatusOr<HttpAnswerText> HttpCall(const std::string& address,
                                        const std::string& path,
                                        const std::string& body,
                                        int64_t timeout_ms);

// --smoke over HTTP: one short chat with the first model served at `address`;
// the text it answers.
absl::StatusOr<std::string> HttpSmokeTest(const std::string& address);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_HTTP_CLIENT_H_
