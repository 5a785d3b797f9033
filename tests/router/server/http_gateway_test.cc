#include "router/server/http_gateway.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/log.h"
#include "base/mutex.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "router/server/http_client.h"
#include "tests/router/testing/fake_worker.h"
#include "tests/router/testing/test_router.h"

namespace sluice::router {
namespace {

namespace net = boost::asio;
using nlohmann::json;

// A gateway over a router over one scripted worker.
class HttpGatewayTest : public testing::Test {
 protected:
  void Begin(FakeWorker::OnSubmit on_submit,
             HttpGatewayOptions options = HttpGatewayOptions()) {
    worker_ = std::make_unique<FakeWorker>("w0", v1::MIXED, on_submit);
    router_ =
        std::make_unique<TestRouter>(std::vector<FakeWorker*>{worker_.get()});
    ASSERT_TRUE(router_->WaitReady());
    options.address = "127.0.0.1:0";
    auto gateway =
        HttpGateway::Start(std::move(options), router_->router(), metrics_);
    ASSERT_TRUE(gateway.ok()) << gateway.status();
    gateway_ = *std::move(gateway);
  }

  HttpAnswerText Call(const std::string& path, const std::string& body = "") {
    const auto answer = HttpCall(gateway_->address(), path, body, 10'000);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : HttpAnswerText();
  }
  json Completion(json extra) {
    json body = {{"model", "m"}, {"prompt", "say it"}, {"max_tokens", 50}};
    body.update(extra);
    const HttpAnswerText answer = Call("/v1/completions", body.dump());
    EXPECT_EQ(answer.status, 200) << answer.body;
    return json::parse(answer.body);
  }
  // Sends raw bytes and returns what came back until the server closes.
  std::string Raw(const std::string& bytes) {
    net::io_context io;
    net::ip::tcp::socket socket(io);
    socket.connect({net::ip::make_address("127.0.0.1"),
                    static_cast<uint16_t>(gateway_->port())});
    net::write(socket, net::buffer(bytes));
    std::string all;
    boost::system::error_code error;
    net::read(socket, net::dynamic_buffer(all), error);
    return all;
  }

  MetricRegistry metrics_;
  std::unique_ptr<FakeWorker> worker_;
  std::unique_ptr<TestRouter> router_;
  std::unique_ptr<HttpGateway> gateway_;
};

json Chat(json extra = json::object()) {
  json body = {{"model", "m"},
               {"messages", {{{"role", "user"}, {"content", "hi"}}}},
               {"max_tokens", 50}};
  body.update(extra);
  return body;
}

// The JSON of each data event; [DONE] as a string.
std::vector<json> Events(const std::string& body) {
  std::vector<json> events;
  for (const auto& frame : absl::StrSplit(body, "\n\n")) {
    if (frame.substr(0, 6) != "data: ") continue;
    const std::string text(frame.substr(6));
    events.push_back(text == "[DONE]" ? json(text) : json::parse(text));
  }
  return events;
}

TEST_F(HttpGatewayTest, CompletionHasTheDocumentedShape) {
  Begin(Answering("hello world"));
  const json reply = Completion(json::object());
  EXPECT_EQ(reply["object"], "text_completion");
  EXPECT_EQ(reply["model"], "m");
  EXPECT_EQ(reply["id"].get<std::string>().substr(0, 5), "cmpl-");
  EXPECT_EQ(reply["choices"][0]["text"], "hello world");
  EXPECT_EQ(reply["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(reply["usage"]["prompt_tokens"], 6);
  EXPECT_EQ(reply["usage"]["completion_tokens"], 11);
  EXPECT_EQ(reply["usage"]["total_tokens"], 17);
  EXPECT_TRUE(router_->WaitIdle());
}

TEST_F(HttpGatewayTest, ChatStreamIsFramedAndEndsWithDone) {
  Begin(Answering("hello"));
  const HttpAnswerText answer = Call(
      "/v1/chat/completions",
      Chat({{"stream", true}, {"stream_options", {{"include_usage", true}}}})
          .dump());
  ASSERT_EQ(answer.status, 200) << answer.body;
  EXPECT_NE(answer.head.find("text/event-stream; charset=utf-8"),
            std::string::npos);
  EXPECT_NE(answer.head.find("no-store"), std::string::npos);
  const std::vector<json> events = Events(answer.body);
  ASSERT_GE(events.size(), 4u) << answer.body;
  EXPECT_EQ(events[0]["choices"][0]["delta"],
            (json{{"role", "assistant"}, {"content", ""}}));
  std::string text;
  for (const json& event : events) {
    if (!event.is_object() || event["choices"].empty()) continue;
    text += event["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(events.back(), "[DONE]");
  const json& usage = events[events.size() - 2];
  EXPECT_TRUE(usage["choices"].empty());
  EXPECT_EQ(usage["usage"]["completion_tokens"], 5);
  EXPECT_EQ(events[events.size() - 3]["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(events[1]["usage"].is_null());
}

TEST_F(HttpGatewayTest, PromptListsAndNGiveIndices) {
  Begin(Answering("ab"));
  const json reply =
      Completion({{"prompt", {"x", "yz"}}, {"n", 2}, {"seed", 3}});
  ASSERT_EQ(reply["choices"].size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(reply["choices"][i]["index"], i);
  EXPECT_EQ(reply["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(reply["usage"]["completion_tokens"], 8);
}

TEST_F(HttpGatewayTest, EchoLeadsTheText) {
  Begin(Answering("ab"));
  const json reply = Completion({{"echo", true}});
  EXPECT_EQ(reply["choices"][0]["text"], "say itab");
}

TEST_F(HttpGatewayTest, StopStringEndsTheChoice) {
  Begin(Answering("hello world"));
  const json reply = Completion({{"stop", "wor"}});
  EXPECT_EQ(reply["choices"][0]["text"], "hello ");
  EXPECT_EQ(reply["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(reply["choices"][0]["stop_reason"], "wor");
}

struct Refusal {
  const char* name;
  const char* path;
  const char* body;
  int status;
  const char* code;   // "": null
  const char* param;  // "": null
  const char* text;
};

const Refusal kRefusals[] = {
    {"UnknownField", "/v1/completions",
     R"({"model":"m","prompt":"x","temperatur":1})", 400, "unknown_parameter",
     "temperatur", "unknown field \"temperatur\""},
    {"WrongType", "/v1/completions",
     R"({"model":"m","prompt":"x","temperature":"hot"})", 400, "",
     "temperature", "temperature must be a number"},
    {"BoolIsNoNumber", "/v1/completions",
     R"({"model":"m","prompt":"x","temperature":true})", 400, "", "temperature",
     "must be a number"},
    {"NotAnInteger", "/v1/completions",
     R"({"model":"m","prompt":"x","max_tokens":1.5})", 400, "", "max_tokens",
     "max_tokens must be an integer"},
    {"OutOfRange", "/v1/completions",
     R"({"model":"m","prompt":"x","temperature":2.5})", 400, "", "temperature",
     "temperature must be finite and in [0, 2], got 2.5"},
    {"NOutOfRange", "/v1/completions", R"({"model":"m","prompt":"x","n":0})",
     400, "", "n", "n must be in [1, 128], got 0"},
    {"TopK", "/v1/completions", R"({"model":"m","prompt":"x","top_k":-2})", 400,
     "", "top_k", "top_k must be -1, 0 or positive, got -2"},
    {"NoPrompt", "/v1/completions", R"({"model":"m"})", 400, "", "prompt",
     "prompt is required"},
    {"NoModel", "/v1/completions", R"({"prompt":"x"})", 400, "", "model",
     "model is required"},
    {"UnknownModel", "/v1/completions", R"({"model":"z","prompt":"x"})", 404,
     "model_not_found", "", "z"},
    {"Tools", "/v1/chat/completions",
     R"({"model":"m","messages":[{"role":"user","content":"x"}],"tools":[]})",
     400, "unsupported_parameter", "tools", "tools is not supported"},
    {"Schema", "/v1/chat/completions",
     R"({"model":"m","messages":[{"role":"user","content":"x"}],
         "response_format":{"type":"json_object"}})",
     400, "unsupported_parameter", "response_format", "response_format"},
    {"Reasoning", "/v1/chat/completions",
     R"({"model":"m","messages":[{"role":"user","content":"x"}],
         "reasoning_effort":"low"})",
     400, "unsupported_parameter", "reasoning_effort", "reasoning_effort"},
    {"Resumable", "/v1/completions",
     R"({"model":"m","prompt":"x","sluice":{"resumable":true}})", 400,
     "unsupported_parameter", "sluice.resumable", "resumable"},
    {"EmptyMessages", "/v1/chat/completions", R"({"model":"m","messages":[]})",
     400, "", "messages", "messages"},
    {"TwoLimits", "/v1/chat/completions",
     R"({"model":"m","messages":[{"role":"user","content":"x"}],
         "max_tokens":4,"max_completion_tokens":5})",
     400, "", "max_completion_tokens", "differ"},
    {"DuplicateKey", "/v1/completions",
     R"({"model":"m","prompt":"x","n":1,"n":2})", 400, "", "", "body:"},
    {"TrailingText", "/v1/completions", R"({"model":"m","prompt":"x"} x)", 400,
     "", "", "body:"},
    {"NotAnObject", "/v1/completions", "[]", 400, "", "", "JSON object"},
    {"Route", "/v1/embeddings", R"({"model":"m"})", 404, "", "",
     "no such route"},
    {"PartOfNoType", "/v1/chat/completions",
     R"({"model":"m","messages":[{"role":"user","content":[{"type":1}]}]})",
     400, "", "messages", "messages"},
    {"ImagePart", "/v1/chat/completions",
     R"({"model":"m","messages":[{"role":"user","content":[
         {"type":"image_url","image_url":{"url":"data:,"}}]}]})",
     400, "unsupported_parameter", "messages", "image_url"},
};

TEST_F(HttpGatewayTest, RefusalsNameTheField) {
  Begin(Answering("x"));
  for (const Refusal& c : kRefusals) {
    SCOPED_TRACE(c.name);
    const HttpAnswerText answer = Call(c.path, c.body);
    EXPECT_EQ(answer.status, c.status) << answer.body;
    EXPECT_NE(answer.head.find("x-should-retry: false"), std::string::npos);
    const json reply = json::parse(answer.body);
    for (const char* key : {"message", "type", "param", "code"}) {
      EXPECT_TRUE(reply["error"].contains(key)) << key;
    }
    const auto text = [](const json& value) {
      return value.is_null() ? std::string() : value.get<std::string>();
    };
    EXPECT_EQ(text(reply["error"]["code"]), c.code) << answer.body;
    if (*c.param != '\0') {
      EXPECT_EQ(text(reply["error"]["param"]), c.param) << answer.body;
    }
    EXPECT_NE(text(reply["error"]["message"]).find(c.text), std::string::npos)
        << answer.body;
  }
  EXPECT_TRUE(worker_->submits().empty());
}

TEST_F(HttpGatewayTest, NullMeansAbsentAndIntegralFloatsAreIntegers) {
  Begin(Answering("ab"));
  const json reply = Completion({{"stop", nullptr},
                                 {"seed", nullptr},
                                 {"tools", nullptr},
                                 {"n", nullptr},
                                 {"max_tokens", 16.0}});
  EXPECT_EQ(reply["choices"][0]["text"], "ab");
}

TEST_F(HttpGatewayTest, ParametersReachTheWorker) {
  Begin(Answering("ab"));
  Completion({{"temperature", 0.5},
              {"top_p", 0.25},
              {"top_k", 7},
              {"seed", -5},
              {"frequency_penalty", 0.5},
              {"logit_bias", {{"65", 2.0}}},
              {"ignore_eos", true},
              {"priority", 3},
              {"cache_salt", "s"}});
  const v1::SubmitRequest submit = worker_->WaitSubmit().request;
  EXPECT_EQ(submit.sampling().temperature(), 0.5f);
  EXPECT_EQ(submit.sampling().top_p(), 0.25f);
  EXPECT_EQ(submit.sampling().top_k(), 7u);
  EXPECT_EQ(submit.seed(), static_cast<uint64_t>(-5));
  EXPECT_EQ(submit.sampling().frequency_penalty(), 0.5f);
  EXPECT_EQ(submit.sampling().logit_bias().at(65), 2.0f);
  EXPECT_TRUE(submit.sampling().ignore_eos());
  EXPECT_EQ(submit.priority(), 3);
  EXPECT_EQ(submit.cache_salt(), "s");
}

TEST_F(HttpGatewayTest, SimpleRoutesAnswer) {
  Begin(Answering("ab"));
  EXPECT_EQ(json::parse(Call("/v1/models").body)["data"][0]["id"], "m");
  EXPECT_EQ(Call("/v1/models/m").status, 200);
  EXPECT_EQ(Call("/v1/models/z").status, 404);
  EXPECT_EQ(Call("/health").status, 200);
  EXPECT_TRUE(json::parse(Call("/version").body).contains("commit"));
  EXPECT_EQ(Call("/metrics").status, 404);
  const json tokens = json::parse(
      Call("/tokenize",
           R"({"model":"m","prompt":"ab","add_special_tokens":false})")
          .body);
  EXPECT_EQ(tokens["tokens"], (json{97, 98}));
  EXPECT_EQ(tokens["count"], 2);
  EXPECT_EQ(json::parse(
                Call("/detokenize", R"({"model":"m","tokens":[97,98]})").body),
            (json{{"prompt", "ab"}}));
}

TEST_F(HttpGatewayTest, ProtocolMistakesGetTheirStatus) {
  HttpGatewayOptions options;
  options.max_body_bytes = 100;
  options.max_header_bytes = 2048;
  options.max_target_bytes = 256;
  Begin(Answering("ab"), options);
  const auto status = [&](const std::string& bytes) {
    return Raw(bytes).substr(0, 12);
  };
  EXPECT_EQ(status("GET /v1/completions HTTP/1.1\r\nHost: x\r\n"
                   "Connection: close\r\n\r\n"),
            "HTTP/1.1 405");
  EXPECT_EQ(status("nonsense\r\n\r\n"), "HTTP/1.1 400");
  EXPECT_EQ(
      status("GET /" + std::string(300, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n"),
      "HTTP/1.1 414");
  EXPECT_EQ(status("GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(4000, 'a') +
                   "\r\n\r\n"),
            "HTTP/1.1 431");
  EXPECT_EQ(status("POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                   "Content-Type: application/json\r\n"
                   "Content-Length: 101\r\n\r\n"),
            "HTTP/1.1 413");
  EXPECT_EQ(status("POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                   "Content-Type: text/plain\r\nConnection: close\r\n"
                   "Content-Length: 2\r\n\r\n{}"),
            "HTTP/1.1 415");
}

TEST_F(HttpGatewayTest, PipelinedRequestsAreAnsweredInOrder) {
  Begin(Answering("ab"));
  const std::string all =
      Raw("GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
          "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
          "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const size_t version = all.find("\"commit\"");
  const size_t models = all.find("\"list\"");
  const size_t health = all.find("\"status\"");
  ASSERT_NE(health, std::string::npos) << all;
  EXPECT_LT(version, models);
  EXPECT_LT(models, health);
}

// Pooled clients send one generation after the other on a connection.
TEST_F(HttpGatewayTest, AConnectionServesManyGenerations) {
  Begin(Answering("ab"));
  net::io_context io;
  net::ip::tcp::socket socket(io);
  socket.connect({net::ip::make_address("127.0.0.1"),
                  static_cast<uint16_t>(gateway_->port())});
  std::string all;
  const auto read_until = [&](const std::string& end) {
    net::read_until(socket, net::dynamic_buffer(all), end);
    const size_t size = all.find(end) + end.size();
    const std::string reply = all.substr(0, size);
    all.erase(0, size);
    return reply;
  };
  for (const bool stream : {false, true, false, true}) {
    const std::string body = Chat({{"stream", stream}}).dump();
    net::write(socket, net::buffer(absl::StrCat(
                           "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                           "Content-Type: application/json\r\nContent-Length: ",
                           body.size(), "\r\n\r\n", body)));
    const std::string reply =
        read_until(stream ? "[DONE]\n\n\r\n0\r\n\r\n" : "}}}");
    EXPECT_EQ(reply.substr(0, 15), "HTTP/1.1 200 OK") << reply;
    EXPECT_NE(reply.find(stream ? "\"b\"" : "\"ab\""), std::string::npos)
        << reply;
    EXPECT_TRUE(all.empty()) << all;
  }
  EXPECT_EQ(worker_->submits().size(), 4u);
}

TEST_F(HttpGatewayTest, RequestIdIsEchoedIfValid) {
  Begin(Answering("ab"));
  const auto ask = [&](const std::string& id) {
    return Raw("GET /version HTTP/1.1\r\nHost: x\r\nX-Request-Id: " + id +
               "\r\nConnection: close\r\n\r\n");
  };
  EXPECT_NE(ask("sdk-case.1").find("x-request-id: sdk-case.1\r\n"),
            std::string::npos);
  EXPECT_EQ(ask("a b").find("x-request-id: a b"), std::string::npos);
  EXPECT_NE(ask("a b").find("x-request-id: "), std::string::npos);
}

TEST_F(HttpGatewayTest, AClientThatLeavesCancelsItsRequest) {
  // The worker never answers beyond the first token.
  Begin([](const FakeDispatch& dispatch) {
    dispatch.stream->Send(AdmittedEvent());
    dispatch.stream->Send(DeltaEvent(0, 0, "a"));
  });
  for (const bool stream : {true, false}) {
    net::io_context io;
    net::ip::tcp::socket socket(io);
    socket.connect({net::ip::make_address("127.0.0.1"),
                    static_cast<uint16_t>(gateway_->port())});
    const std::string body = Chat({{"stream", stream}}).dump();
    net::write(socket, net::buffer(absl::StrCat(
                           "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                           "Content-Type: application/json\r\nContent-Length: ",
                           body.size(), "\r\n\r\n", body)));
    worker_->WaitSubmit(stream ? 1 : 2);
    socket.close();
    worker_->WaitCancels(stream ? 1 : 2);
  }
  EXPECT_TRUE(router_->WaitIdle());
}

std::string Post(const std::string& path, const std::string& body,
                 const std::string& headers = "") {
  return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: x\r\n",
                      "Content-Type: application/json\r\nContent-Length: ",
                      body.size(), "\r\n", headers, "\r\n", body);
}

TEST_F(HttpGatewayTest, AFailureInAStreamIsItsLastEvent) {
  std::shared_ptr<SubmitStream> stream;
  Mutex mu;
  Begin([&](const FakeDispatch& dispatch) {
    {
      MutexLock lock(mu);
      stream = dispatch.stream;
    }
    dispatch.stream->Send(AdmittedEvent());
    dispatch.stream->Send(DeltaEvent(0, 0, "a"));
  });
  net::io_context io;
  net::ip::tcp::socket socket(io);
  socket.connect({net::ip::make_address("127.0.0.1"),
                  static_cast<uint16_t>(gateway_->port())});
  net::write(socket, net::buffer(Post("/v1/chat/completions",
                                      Chat({{"stream", true}}).dump())));
  std::string all;
  net::read_until(socket, net::dynamic_buffer(all), "\"a\"");
  {
    MutexLock lock(mu);
    stream->End(grpc::Status(grpc::StatusCode::INTERNAL, "numbers went wrong"));
  }
  net::read_until(socket, net::dynamic_buffer(all), "\r\n0\r\n\r\n");
  EXPECT_EQ(all.substr(0, 15), "HTTP/1.1 200 OK") << all;
  EXPECT_NE(all.find("\"error\"", all.rfind("data: ")), std::string::npos)
      << all;
  EXPECT_EQ(all.find("[DONE]"), std::string::npos);
}

TEST_F(HttpGatewayTest, ADrainingGatewayClosesAfterTheReply) {
  Begin(Answering("ab"));
  gateway_->StartDrain();
  EXPECT_NE(
      Raw("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").find("Connection: close"),
      std::string::npos);
}

constexpr char kGzipBody[] =
    "1f8b08000000000002ffab562a28cacf2d2851b2524a4c52d2514a4c49892f2e"
    "484dce4ccc892fc9cf4ecd2b56b24a4bcc294ead05004e01b6cb2a000000";

// Everything logged since its birth.
class LogCapture {
 public:
  LogCapture() : fd_(memfd_create("log", 0)) { ConfigureLog({.fd = fd_}); }
  ~LogCapture() {
    ConfigureLog({});
    close(fd_);
  }
  // The request lines so far.
  std::vector<json> Requests() const {
    FlushLog(5000);
    std::string text(static_cast<size_t>(lseek(fd_, 0, SEEK_END)), '\0');
    EXPECT_EQ(pread(fd_, text.data(), text.size(), 0),
              static_cast<ssize_t>(text.size()));
    std::vector<json> lines;
    for (const auto& line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      json parsed = json::parse(std::string(line));
      if (parsed["msg"] == "request") lines.push_back(std::move(parsed));
    }
    return lines;
  }

 private:
  const int fd_;
};

struct Refused {
  const char* name;
  std::string bytes;
  const char* status;
  const char* code;
};

// One line and one count each, as for a request that a flow refuses.
TEST_F(HttpGatewayTest, RefusedRequestsAreCountedAndLogged) {
  HttpGatewayOptions options;
  options.max_body_bytes = 1000;
  Begin(Answering("ab"), options);
  const LogCapture log;
  const std::string path = "/v1/completions";
  const std::string end = "Connection: close\r\nX-Request-Id: case-1\r\n";
  const Refused kCases[] = {
      {"Json", Post(path, "{", end), "400", "invalid_argument"},
      {"Field", Post(path, R"({"model":"m","prompt":"x","zz":1})", end), "400",
       "invalid_argument"},
      {"Tools", Post(path, R"({"model":"m","prompt":"x","tools":[]})", end),
       "400", "unimplemented"},
      {"Range", Post(path, R"({"model":"m","prompt":"x","top_p":2})", end),
       "400", "invalid_argument"},
      {"Media", Post(path, "{}", end + "Content-Encoding: br\r\n"), "415",
       "invalid_argument"},
      {"Gzip", Post(path, "{}", end + "Content-Encoding: gzip\r\n"), "400",
       "invalid_argument"},
      {"Header",
       Post(path, R"({"model":"m","prompt":"x"})",
            end + "x-sluice-deadline-ms: 0\r\n"),
       "400", "invalid_argument"},
      {"Large", Post(path, std::string(1001, ' '), end), "413",
       "resource_exhausted"},
      {"Model", Post(path, R"({"model":"z","prompt":"x"})", end), "404",
       "not_found"}};
  size_t num = 0;
  for (const Refused& c : kCases) {
    SCOPED_TRACE(c.name);
    const std::string reply = Raw(c.bytes);
    EXPECT_EQ(reply.substr(9, 3), c.status) << reply;
    EXPECT_NE(reply.find("x-request-id: case-1\r\n"), std::string::npos);
    const std::vector<json> lines = log.Requests();
    ASSERT_EQ(lines.size(), ++num);
    EXPECT_EQ(lines.back()["code"], c.code);
    EXPECT_EQ(lines.back()["surface"], "openai");
    EXPECT_EQ(lines.back()["client_request_id"], "case-1");
    EXPECT_EQ(lines.back()["prompt_tokens"], 0);
  }
  const auto count = [&](const char* model, const char* code) {
    return router_->Metric(
        absl::StrCat("sluice_router_requests_total{surface=\"openai\",model=\"",
                     model, "\",code=\"", code, "\"}"));
  };
  EXPECT_EQ(count("m", "invalid_argument"), 6);
  EXPECT_EQ(count("m", "unimplemented"), 1);
  EXPECT_EQ(count("m", "resource_exhausted"), 1);
  EXPECT_EQ(count("unknown", "not_found"), 1);
}

// A prompt that is refused after another was admitted still has its status.
TEST_F(HttpGatewayTest, AListOfPromptsHasOneStatus) {
  // The two prompts arrive in any order: the longer one fails once both did.
  std::shared_ptr<SubmitStream> second;
  bool first_runs = false;
  Mutex mu;
  Begin([&](const FakeDispatch& dispatch) {
    const bool is_first = dispatch.request.prompt_ids_size() == 1;
    if (is_first) {
      dispatch.stream->Send(AdmittedEvent());
      dispatch.stream->Send(DeltaEvent(0, 0, "a"));
    }
    MutexLock lock(mu);
    if (is_first) {
      first_runs = true;
    } else {
      second = dispatch.stream;
    }
    if (first_runs && second != nullptr) {
      second->End(grpc::Status(grpc::StatusCode::INTERNAL, "no"));
    }
  });
  const auto status = [&](const json& prompts) {
    return Call("/v1/completions",
                json{{"model", "m"}, {"prompt", prompts}, {"stream", true}}
                    .dump())
        .status;
  };
  EXPECT_EQ(status(json::array({json::array({1}), json::array({99999})})), 400);
  EXPECT_EQ(status({"two", "x"}), 500);
  EXPECT_TRUE(router_->WaitIdle());
}

// But a prompt that waits does not hold the others' tokens for ever.
TEST_F(HttpGatewayTest, AListBeginsWhenEnoughIsHeld) {
  Begin([](const FakeDispatch& dispatch) {
    if (dispatch.request.prompt_ids_size() > 1) return;  // never admitted
    dispatch.stream->Send(AdmittedEvent());
    for (uint32_t i = 0; i < 300; ++i) {
      dispatch.stream->Send(DeltaEvent(0, i, "a"));
    }
  });
  net::io_context io;
  net::ip::tcp::socket socket(io);
  socket.connect({net::ip::make_address("127.0.0.1"),
                  static_cast<uint16_t>(gateway_->port())});
  net::write(socket, net::buffer(Post("/v1/completions",
                                      R"({"model":"m","prompt":["x","two"],)"
                                      R"("stream":true,"max_tokens":400})")));
  std::string all;
  net::read_until(socket, net::dynamic_buffer(all), "\"a\"");
  EXPECT_EQ(all.substr(0, 15), "HTTP/1.1 200 OK");
}

TEST_F(HttpGatewayTest, ARequestBehindAGenerationIsAnswered) {
  Begin(Answering("ab"));
  const std::string all =
      Raw(Post("/v1/chat/completions", Chat().dump()) +
          Post("/v1/chat/completions", Chat({{"stream", true}}).dump()) +
          "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_NE(all.find("\"ab\""), std::string::npos) << all;
  EXPECT_NE(all.find("[DONE]"), std::string::npos) << all;
  EXPECT_NE(all.find("\"commit\""), std::string::npos) << all;
}

// What a large body takes is not taken from other connections.
TEST_F(HttpGatewayTest, ALargeBodyStallsNobody) {
  HttpGatewayOptions options;
  options.threads = 1;
  Begin(Answering("ab"), options);
  std::string body = R"({"model":"m","prompt":[1)";
  for (int i = 1; i < 3'000'000; ++i) body += ",1";
  body += "]}";
  std::atomic<bool> sent = false;
  std::atomic<bool> replied = false;
  std::thread large([&] {
    net::io_context io;
    net::ip::tcp::socket socket(io);
    socket.connect({net::ip::make_address("127.0.0.1"),
                    static_cast<uint16_t>(gateway_->port())});
    net::write(socket, net::buffer(Post("/v1/completions", body)));
    sent = true;
    std::string all;
    net::read_until(socket, net::dynamic_buffer(all), "\r\n\r\n");
    replied = true;
    EXPECT_EQ(all.substr(9, 3), "400");
  });
  while (!sent) std::this_thread::yield();
  // Of one I/O thread that is busy with the body one call would come back with
  // its reply, at most two.
  int calls = 0;
  while (!replied) {
    EXPECT_EQ(Call("/version").status, 200);
    ++calls;
  }
  large.join();
  EXPECT_GT(calls, 3);
}

TEST_F(HttpGatewayTest, IntegralFloatsAreTokenIds) {
  Begin(Answering("ab"));
  Completion({{"prompt", {97.0, 98}}, {"stop_token_ids", {5.0}}});
  const v1::SubmitRequest submit = worker_->WaitSubmit().request;
  ASSERT_EQ(submit.prompt_ids_size(), 2);
  EXPECT_EQ(submit.prompt_ids(0), 97u);
  EXPECT_EQ(submit.sampling().stop_token_ids(0), 5u);
  EXPECT_EQ(
      json::parse(
          Call("/detokenize", R"({"model":"m","tokens":[97.0,9.8e1]})").body),
      (json{{"prompt", "ab"}}));
  for (const char* id : {"97.5", "-1", "4294967296", "1e300", "\"97\""}) {
    EXPECT_EQ(Call("/detokenize",
                   absl::StrCat(R"({"model":"m","tokens":[)", id, "]}"))
                  .status,
              400)
        << id;
  }
}

TEST_F(HttpGatewayTest, NamesInPathsMayBeEscaped) {
  Begin(Answering("ab"));
  EXPECT_EQ(Call("/v1/models/%6D").status, 200);
  EXPECT_EQ(Call("/v1/models/%6d").status, 200);
  EXPECT_EQ(Call("/v1/models/a%2Fb").status, 404);
  for (const char* broken : {"%", "%6", "%zz", "m%"}) {
    EXPECT_EQ(Call(absl::StrCat("/v1/models/", broken)).status, 400) << broken;
  }
}

TEST_F(HttpGatewayTest, GzipBodiesAreUnpacked) {
  Begin(Answering("ab"));
  // {"prompt":"ab","add_special_tokens":false}
  const std::string body = absl::HexStringToBytes(kGzipBody);
  const auto reply = [&](const std::string& packed) {
    return Raw(Post("/tokenize", packed,
                    "Connection: close\r\nContent-Encoding: gzip\r\n"));
  };
  EXPECT_NE(reply(body).find("\"tokens\":[97,98]"), std::string::npos);
  EXPECT_EQ(reply(body.substr(0, 20)).substr(9, 3), "400");
}

// Far too many prompts cost no more than one.
TEST_F(HttpGatewayTest, TooManyPromptsAreRefused) {
  Begin(Answering("ab"));
  const HttpAnswerText answer =
      Call("/v1/completions",
           json{{"model", "m"}, {"prompt", std::vector<std::string>(1 << 20)}}
               .dump());
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.body.find("limit 256"), std::string::npos) << answer.body;
}

// An error quotes the client, but not all of it.
TEST_F(HttpGatewayTest, ErrorsAreShort) {
  Begin(Answering("ab"));
  const HttpAnswerText answer =
      Call("/v1/completions",
           json{{"model", "m"}, {"prompt", "x"}, {std::string(100'000, 'f'), 1}}
               .dump());
  EXPECT_EQ(answer.status, 400);
  EXPECT_LT(answer.body.size(), 2000u);
}

TEST_F(HttpGatewayTest, PromptLogprobsAreBounded) {
  Begin(Answering("ab"));
  const HttpAnswerText answer =
      Call("/v1/completions", json{{"model", "m"},
                                   {"prompt", std::string(900, 'a')},
                                   {"max_tokens", 2},
                                   {"n", 128},
                                   {"prompt_logprobs", 20}}
                                  .dump());
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.body.find("prompt_logprobs of 900 prompt tokens"),
            std::string::npos)
      << answer.body;
}

}  // namespace
}  // namespace sluice::router
