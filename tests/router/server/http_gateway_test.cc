#include "router/server/http_gateway.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
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

TEST_F(HttpGatewayTest, AFailureInAStreamIsItsLastEvent) {
  Begin([](const FakeDispatch& dispatch) {
    dispatch.stream->Send(AdmittedEvent());
    dispatch.stream->Send(DeltaEvent(0, 0, "a"));
    dispatch.stream->End(
        grpc::Status(grpc::StatusCode::INTERNAL, "numbers went wrong"));
  });
  const HttpAnswerText answer =
      Call("/v1/chat/completions", Chat({{"stream", true}}).dump());
  EXPECT_EQ(answer.status, 200);
  const std::vector<json> events = Events(answer.body);
  ASSERT_FALSE(events.empty());
  EXPECT_TRUE(events.back().contains("error")) << answer.body;
  EXPECT_EQ(answer.body.find("[DONE]"), std::string::npos);
}

TEST_F(HttpGatewayTest, ADrainingGatewayClosesAfterTheReply) {
  Begin(Answering("ab"));
  gateway_->StartDrain();
  EXPECT_NE(
      Raw("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").find("Connection: close"),
      std::string::npos);
}

}  // namespace
}  // namespace sluice::router
