#include "router/flow/chat_messages.h"

#include <gtest/gtest.h>

#include <string>

#include "base/grpc_status.h"

namespace sluice::router {
namespace {

TEST(ChatMessagesTest, JoinsTextPartsAndKeepsTheRest) {
  const auto json = NormalizeMessages(
      R"([{"role":"user","name":"z","content":[{"type":"text","text":"a"},)"
      R"({"text":"b","type":"text"}]},)"
      R"({"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}])");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(
      *json,
      R"([{"role":"user","name":"z","content":"ab"},)"
      R"({"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}])");
}

TEST(ChatMessagesTest, RefusesOthers) {
  const std::pair<const char*, const char*> cases[] = {
      {"{}", "messages must be a non-empty list"},
      {"[]", "messages must be a non-empty list"},
      {"[1]", "messages[0] must be an object"},
      {R"([{"content":"a"}])", "messages[0].role must be a string"},
      {R"([{"role":"king","content":"a"}])",
       "messages[0].role `king` is unknown"},
      {R"([{"role":"user"}])", "messages[0].content is missing"},
      {R"([{"role":"user","content":5}])",
       "messages[0].content must be a string or a list of parts"},
      {R"([{"role":"user","content":["a"]}])",
       "messages[0].content has a part without a type"},
      {R"([{"role":"user","content":[{"type":"text","text":1}]}])",
       "messages[0].content has a text part without text"}};
  for (const auto& [json, message] : cases) {
    const absl::Status status = NormalizeMessages(json).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_EQ(status.message(), message);
  }
  EXPECT_FALSE(NormalizeMessages("[{\"role\":\"user\"").ok());
  const absl::Status image =
      NormalizeMessages(R"([{"role":"user","content":[{"type":"image_url"}]}])")
          .status();
  EXPECT_EQ(image.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ReasonOf(image), "UNSUPPORTED_PARAMETER");
}

}  // namespace
}  // namespace sluice::router
