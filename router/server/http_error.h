#ifndef ROUTER_SERVER_HTTP_ERROR_H_
#define ROUTER_SERVER_HTTP_ERROR_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace sluice::router {

// One failed HTTP request, as the OpenAI API spells it. A value.
struct HttpError {
  int status = 500;
  std::string message;
  std::string type = "server_error";
  std::string param;  // empty: null
  std::string code;   // empty: null
  bool retry = false;
  std::optional<int64_t> retry_after_ms;

  // {"error":{"message","type","param","code"}}, one line.
  std::string Json() const;
};

// A request the client must mend: 400, type invalid_request_error.
HttpError BadRequest(std::string message, std::string param = "",
                     std::string code = "");

// A status of a flow; `param` is the field to blame, if any. Codes, types and
// retry hints: API specification section 4.
HttpError ToHttpError(const absl::Status& status,
                      const std::string& param = "");

// The status that tells logs and metrics of a request refused with `error`
// before any flow saw it.
absl::Status StatusOf(const HttpError& error);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_HTTP_ERROR_H_
