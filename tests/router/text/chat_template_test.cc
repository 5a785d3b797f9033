#include "router/text/chat_template.h"

#include <cstdlib>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/router/text/golden_file.h"

namespace sluice::router {
namespace {

constexpr char kHi[] = R"([{"role":"user","content":"Hi"}])";

absl::StatusOr<std::string> Render(absl::string_view source,
                                   const ChatInput& input) {
  absl::StatusOr<ChatTemplate> parsed =
      ChatTemplate::Create(source, "<s>", "</s>");
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(input);
}

// Objects keep their order: nlohmann's default type would sort the keys.
std::string Field(const nlohmann::ordered_json& row, const char* name) {
  return row.contains(name) ? row[name].dump() : "";
}

TEST(ChatTemplateTest, AgreesWithJinja2) {
  ::setenv("TZ", "UTC", 1);
  std::istringstream lines(ReadGolden("chat_template_cases.jsonl"));
  absl::StatusOr<ChatTemplate> parsed = absl::UnknownError("");
  int num_prompts = 0;
  for (std::string line; std::getline(lines, line);) {
    const auto row = nlohmann::ordered_json::parse(line);
    if (row.contains("template")) {
      parsed = ChatTemplate::Create(row["template"].get<std::string>(), "<s>",
                                    "</s>");
      ASSERT_TRUE(parsed.ok()) << row["name"] << parsed.status();
      continue;
    }
    SCOPED_TRACE(line);
    ChatInput input;
    input.messages_json = Field(row, "messages");
    input.tools_json = Field(row, "tools");
    input.documents_json = Field(row, "documents");
    input.kwargs_json = Field(row, "kwargs");
    input.add_generation_prompt = row.value("add_generation_prompt", false);
    input.continue_final_message = row.value("continue_final", false);
    input.now_unix_seconds = 1'722'000'000;
    const absl::StatusOr<std::string> prompt = parsed->Render(input);
    if (row.contains("error")) {
      EXPECT_EQ(prompt.status(),
                absl::InvalidArgumentError(absl::StrCat(
                    "chat template: ", row["error"].get<std::string>())));
      continue;
    }
    ++num_prompts;
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, row["prompt"].get<std::string>());
  }
  EXPECT_GE(num_prompts, 45);
}

TEST(ChatTemplateTest, RefusesInputOfWrongTypes) {
  struct Case {
    const char* name;
    ChatInput input;
    const char* error;
  };
  const std::vector<Case> cases = {
      {"no json", {.messages_json = "[{"}, "messages is not valid JSON"},
      {"empty", {.messages_json = ""}, "messages is not valid JSON"},
      {"trailing", {.messages_json = "[] []"}, "messages is not valid JSON"},
      {"object", {.messages_json = "{}"}, "messages must be a list"},
      {"item", {.messages_json = "[1]"}, "messages[0] must be an object"},
      {"role",
       {.messages_json = R"([{"content":"x"}])"},
       "messages[0] has no role"},
      {"role type",
       {.messages_json = R"([{"role":1,"content":"x"}])"},
       "messages[0].role must be a string, got integer"},
      {"content",
       {.messages_json = R"([{"role":"user","content":null}])"},
       "messages[0] has no content"},
      {"parts",
       {.messages_json = R"([{"role":"user","content":[]}])"},
       "messages[0].content must be a string, got array"},
      {"no calls",
       {.messages_json = R"([{"role":"assistant","tool_calls":[]}])"},
       "messages[0] has no content"},
      {"calls",
       {.messages_json = R"([{"role":"assistant","tool_calls":[3]}])"},
       "messages[0].tool_calls[0] must be an object"},
      {"twice",
       {.messages_json = R"([{"role":"a","role":"b"}])"},
       "messages repeats the key \"role\""},
      {"utf-8",
       {.messages_json = "[{\"role\":\"\xFF\"}]"},
       "messages is not valid JSON"},
      {"number",
       {.messages_json = R"([{"role":"a","content":"b","c":1e300}])"},
       "messages has the number 1e300"},
      {"too big",
       {.messages_json = "[18446744073709551615]"},
       "messages has a number beyond 64 bits"},
      {"tools",
       {.messages_json = kHi, .tools_json = "7"},
       "tools must be a list"},
      {"documents",
       {.messages_json = kHi, .documents_json = "[\"d\"]"},
       "documents[0] must be an object"},
      {"kwargs",
       {.messages_json = kHi, .kwargs_json = "[]"},
       "chat_template_kwargs must be an object"},
      {"reserved",
       {.messages_json = kHi, .kwargs_json = R"({"tools":[]})"},
       "chat_template_kwargs must not set \"tools\""},
      {"both",
       {.messages_json = kHi, .continue_final_message = true},
       "continue_final_message and add_generation_prompt exclude each other"},
      {"no last",
       {.messages_json = "[]",
        .add_generation_prompt = false,
        .continue_final_message = true},
       "continue_final_message needs a message"},
  };
  for (const Case& c : cases) {
    const absl::StatusOr<std::string> prompt =
        Render("{{ messages }}", c.input);
    EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument)
        << c.name;
    EXPECT_TRUE(absl::StartsWith(prompt.status().message(), c.error))
        << c.name << ": " << prompt.status();
  }
}

TEST(ChatTemplateTest, DeepAndLargeJsonIsRefused) {
  std::string deep(65, '[');
  deep += std::string(65, ']');
  EXPECT_EQ(Render("", {.messages_json = deep}).status().message(),
            "messages is nested deeper than 64");
  std::string many = "[1";
  for (int i = 0; i < (1 << 18); ++i) many += ",1";
  EXPECT_EQ(Render("", {.messages_json = many + "]"}).status().message(),
            "messages has more than 262144 values");
}

TEST(ChatTemplateTest, ErrorsAreValidUtf8) {
  std::string key = "x";
  for (int i = 0; i < 100; ++i) key += "é";
  const std::string json = absl::StrCat("[{\"", key, "\":1,\"", key, "\":1}]");
  const std::string message(
      Render("", {.messages_json = json}).status().message());
  EXPECT_TRUE(absl::StartsWith(message, "messages repeats the key \"xé"));
  EXPECT_NO_THROW(nlohmann::json(message).dump());
  // The engine cuts strings by bytes.
  const std::string raised(
      Render("{{ raise_exception(messages[0].content[0]) }}",
             {.messages_json = R"([{"role":"user","content":"é"}])"})
          .status()
          .message());
  EXPECT_EQ(raised, "chat template: \xEF\xBF\xBD");
}

TEST(ChatTemplateTest, ContentMayBeAbsentBesideToolCalls) {
  const ChatInput input = {
      .messages_json =
          R"([{"role":"assistant","content":null,"tool_calls":[{"id":"x"}]}])"};
  EXPECT_EQ(*Render("{{ messages[0].tool_calls[0].id }}", input), "x");
}

TEST(ChatTemplateTest, RefusesBadTemplates) {
  std::string macros;
  const struct {
    const char* name;
    std::string source;
    const char* error;
  } cases[] = {
      {"open tag", "{% for m in messages %}", "chat template: "},
      {"unknown tag", "{% include 'x' %}", "chat template: "},
      {"open string", "{{ 'abc }}", "chat template: "},
      {"self", "{% macro a() %}{{ a() }}{% endmacro %}",
       "chat template: macro a can call itself"},
      {"cycle",
       "{% macro a() %}{{ b() }}{% endmacro %}"
       "{% macro b() %}{% call a() %}x{% endcall %}{% endmacro %}",
       "chat template: macro a can call itself"},
      {"brackets",
       "{{ " + std::string(100, '(') + "1" + std::string(100, ')') + " }}",
       "chat template: brackets nested too deeply"},
      {"long tag",
       "{{ 1" +
           [] {
             std::string sum;
             for (int i = 0; i < 2000; ++i) sum += "+1";
             return sum;
           }() +
           " }}",
       "chat template: a tag is too long"},
      {"blocks",
       [] {
         std::string nested;
         for (int i = 0; i < 200; ++i) nested += "{% if true %}";
         return nested;
       }(),
       "chat template: blocks nested too deeply"},
      {"size", std::string((256 << 10) + 1, 'x'),
       "chat template: source of 262145 bytes is longer than 262144"},
  };
  for (const auto& c : cases) {
    const absl::Status status = ChatTemplate::Create(c.source, "", "").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.name;
    EXPECT_TRUE(absl::StartsWith(status.message(), c.error))
        << c.name << ": " << status;
  }
}

TEST(ChatTemplateTest, BoundsWhatATemplateCanDo) {
  const struct {
    const char* name;
    const char* source;
    const char* error;
  } cases[] = {
      {"unknown filter", "{{ 'a' | nosuch }}", "nosuch"},
      {"undefined call", "{{ nosuch() }}", "not a function"},
      {"loop",
       "{% for i in range(3000) %}{% for j in range(3000) %}"
       "{% endfor %}{% endfor %}",
       "limit of steps"},
      {"range", "{{ range(1000000000) }}", "limit of steps"},
      {"range overflow", "{{ range(9223372036854775807) }}",
       "limit of range()"},
      {"repeat", "{{ 'abc' * 1000000000 }}", "limit of bytes in a string"},
      {"repeat nothing", "{{ '' * 1000000000 }}", "limit of bytes"},
      {"doubling",
       "{% set ns = namespace(x='0123456789') %}"
       "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
       "{% endfor %}",
       "limit of bytes in a string"},
      {"list doubling",
       "{% set ns = namespace(x=[1]) %}"
       "{% for i in range(60) %}"
       "{% set ns.x = ns.x + ns.x %}{% endfor %}",
       "limit of steps"},
      {"output",
       "{% for i in range(100000) %}{{ '0123456789' * 1000 }}"
       "{% endfor %}",
       "limit of bytes of output"},
      {"recursion by argument",
       "{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}",
       "limit of nested calls"},
      {"self containing",
       "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns | tojson }}",
       "would contain itself"},
      {"self appending",
       "{% set a = [] %}{% set b = a.append(a) %}{{ a | tojson }}",
       "would contain itself"},
      {"raised", "{{ raise_exception('No system role') }}",
       "chat template: No system role"},
  };
  for (const auto& c : cases) {
    const absl::StatusOr<std::string> prompt =
        Render(c.source, {.messages_json = kHi});
    EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument)
        << c.name;
    EXPECT_TRUE(absl::StrContains(prompt.status().message(), c.error))
        << c.name << ": " << prompt.status();
    EXPECT_FALSE(absl::StrContains(prompt.status().message(), "\n")) << c.name;
  }
}

TEST(ChatTemplateTest, OutputIsLimited) {
  const std::string half(5 << 20, 'x');
  const ChatInput input = {.messages_json = absl::StrCat(
                               R"([{"role":"user","content":")", half, "\"}]")};
  EXPECT_TRUE(Render("{{ messages[0].content }}", input).ok());
  EXPECT_EQ(Render("{{ messages[0].content }}{{ messages[0].content }}", input)
                .status()
                .message(),
            "chat template: output of 10485760 bytes is longer than 8388608");
}

TEST(ChatTemplateTest, TellsWhatItReads) {
  const absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Create(
      "{% set local = 1 %}{% for item in messages %}{{ item.documents }}"
      "{% endfor %}{% if tools %}{{ f(reasoning_effort=kw) }}{% endif %}"
      "{% macro m(parameter) %}{{ inner | upper }}{% endmacro %}",
      "", "");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  for (const char* name : {"messages", "tools", "kw", "inner", "f", "item"}) {
    EXPECT_TRUE(parsed->Reads(name)) << name;
  }
  for (const char* name : {"documents", "reasoning_effort", "local", "upper",
                           "parameter", "m", "nothing"}) {
    EXPECT_FALSE(parsed->Reads(name)) << name;
  }
}

TEST(ChatTemplateTest, FinalMessageMustBeInTheText) {
  const absl::StatusOr<std::string> prompt =
      Render("no content here", {.messages_json = kHi,
                                 .add_generation_prompt = false,
                                 .continue_final_message = true});
  EXPECT_TRUE(absl::StartsWith(prompt.status().message(),
                               "continue_final_message: the chat template"));
}

TEST(ChatTemplateTest, RendersOnManyThreads) {
  const absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Create(
      "{% for i in range(200) %}{{ i }},{% endfor %}{{ messages[0].content }}",
      "", "");
  ASSERT_TRUE(parsed.ok());
  const std::string expected = *parsed->Render({.messages_json = kHi});
  std::vector<std::thread> threads;
  std::vector<std::string> results(4);
  for (std::string& result : results) {
    threads.emplace_back([&parsed, &result] {
      for (int i = 0; i < 10; ++i) {
        result = *parsed->Render({.messages_json = kHi});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& result : results) EXPECT_EQ(result, expected);
}

}  // namespace
}  // namespace sluice::router
