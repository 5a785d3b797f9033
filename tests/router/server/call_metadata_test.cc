#include "router/server/call_metadata.h"

#include <gtest/gtest.h>

#include <string>

namespace sluice::router {
namespace {

TEST(CallMetadataTest, AppliesWhatItKnows) {
  GenerateCall call;
  const std::pair<const char*, const char*> headers[] = {
      {"x-request-id", "chatcmpl-1/2:3"},
      {"traceparent",
       "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"},
      {"x-sluice-deadline-ms", "500"},
      {"x-sluice-ttft-deadline-ms", "50"},
      {"x-sluice-session", "s1"},
      {"x-sluice-timing", "1"},
      {"x-sluice-resumable", "0"},
      {"x-sluice-allow-numerics-change", "1"},
      {"user-agent", "anything"}};
  for (const auto& [name, value] : headers) {
    EXPECT_TRUE(ApplyHeader(name, value, call).ok()) << name;
  }
  EXPECT_EQ(call.client_request_id, "chatcmpl-1/2:3");
  EXPECT_EQ(call.trace_id, "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(call.timeout_ms, 500);
  EXPECT_EQ(call.request.ttft_deadline_ms(), 50u);
  EXPECT_EQ(call.request.routing().session_id(), "s1");
  EXPECT_TRUE(call.request.include_timing());
  EXPECT_FALSE(call.request.resume().enabled());
  EXPECT_TRUE(call.request.resume().allow_numerics_change());
}

TEST(CallMetadataTest, TheSmallestLimitCounts) {
  GenerateCall call;
  call.timeout_ms = 100;
  ASSERT_TRUE(ApplyHeader("x-sluice-deadline-ms", "500", call).ok());
  EXPECT_EQ(call.timeout_ms, 100);
  ASSERT_TRUE(ApplyHeader("x-sluice-deadline-ms", "50", call).ok());
  EXPECT_EQ(call.timeout_ms, 50);
}

TEST(CallMetadataTest, RefusesOursWhenTheyCannotBeRead) {
  for (const auto& [name, value] :
       std::vector<std::pair<const char*, std::string>>{
           {"x-sluice-deadline-ms", "soon"},
           {"x-sluice-deadline-ms", "0"},
           {"x-sluice-deadline-ms", "-1"},
           {"x-sluice-ttft-deadline-ms", "99999999999"},
           {"x-sluice-timing", "yes"},
           {"x-sluice-resumable", ""},
           {"x-sluice-session", std::string(257, 's')}}) {
    GenerateCall call;
    EXPECT_EQ(ApplyHeader(name, value, call).code(),
              absl::StatusCode::kInvalidArgument)
        << name;
  }
}

TEST(CallMetadataTest, OddIdsAndTracesAreDropped) {
  GenerateCall call;
  EXPECT_TRUE(ApplyHeader("x-request-id", "a b", call).ok());
  EXPECT_TRUE(ApplyHeader("x-request-id", std::string(129, 'a'), call).ok());
  EXPECT_TRUE(ApplyHeader("traceparent", "00-xyz-1-01", call).ok());
  EXPECT_TRUE(call.client_request_id.empty());
  EXPECT_TRUE(call.trace_id.empty());
}

}  // namespace
}  // namespace sluice::router
