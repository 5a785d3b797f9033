// Every case of the golden file of SmolLM2's chat template.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "router/text/chat_template.h"
#include "router/text/tokenizer.h"
#include "tests/router/text/golden_file.h"

namespace sluice::router {
namespace {

TEST(SmolLm2ChatTest, RendersAndEncodes) {
  const std::unique_ptr<Tokenizer> tokenizer = MakeGoodTokenizer(SmolLm2Spec());
  const absl::StatusOr<ChatTemplate> chat_template = ChatTemplate::Create(
      ReadGolden("smollm2_chat_template.jinja"), "<|im_start|>", "<|im_end|>");
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  const std::vector<nlohmann::json> rows =
      ReadGoldenLines("smollm2_chat.jsonl");
  ASSERT_EQ(rows.size(), 51u);
  for (const nlohmann::json& row : rows) {
    SCOPED_TRACE(row["n"].dump());
    ChatInput input;
    input.messages_json = row["messages"].dump();
    input.add_generation_prompt = row.value("add_generation_prompt", false);
    input.continue_final_message = row.value("continue_final", false);
    const absl::StatusOr<std::string> prompt = chat_template->Render(input);
    if (row.contains("error")) {
      EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, row["prompt"].get<std::string>());
    const absl::StatusOr<Encoding> encoding =
        tokenizer->Encode(*prompt, {.parse_special = true});
    ASSERT_TRUE(encoding.ok()) << encoding.status();
    EXPECT_EQ(encoding->ids, row["ids"].get<std::vector<int32_t>>());
  }
}

}  // namespace
}  // namespace sluice::router
