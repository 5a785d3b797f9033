// A prefill worker announces what it kept of its KV as it wrote it, over every
// transport; the decode worker proves each transfer with it.

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/integration/local_cluster.h"
#include "tests/worker/exec/rig.h"

namespace sluice {
namespace {

constexpr int kRequests = 8;

// The value of one series; -1 when it is not there.
double Value(const std::string& exposition, const std::string& series) {
  for (absl::string_view line : absl::StrSplit(exposition, '\n')) {
    double value = 0;
    if (absl::ConsumePrefix(&line, series + " ") &&
        absl::SimpleAtod(line, &value)) {
      return value;
    }
  }
  return -1;
}

v1::GenerateRequest Request(uint32_t tokens, uint32_t seed) {
  v1::GenerateRequest request;
  for (uint32_t i = 0; i < tokens; ++i) {
    request.mutable_tokens()->add_ids((i * 31 + seed * 7 + 5) % 512);
  }
  request.mutable_sampling()->set_max_tokens(3);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

class KeptDigests : public testing::TestWithParam<std::string> {};

TEST_P(KeptDigests, ProveEveryTransferOfRealWorkers) {
  const std::string transport = GetParam();
  // Block sizes differ: a span of the decode side is four of our blocks.
  auto cluster = LocalCluster::Start(
      {.model = worker::TinyModelPath("llama"),
       .workers = {{.instance = "p0",
                    .role = "prefill",
                    .flags = {"--kv.block_tokens=16",
                              "--sched.chunk_tokens=48"}},
                   {.instance = "d0",
                    .role = "decode",
                    .flags = {"--kv.block_tokens=64"}}},
       .worker_flags = {"--kv.memory_bytes=67108864",
                        absl::StrCat("--kv.transport=", transport),
                        "--kv.on_failure=fail"},
       .router_flags = {"--route.local_prefill_fallback=false"}});
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  for (int i = 0; i < kRequests; ++i) {
    // Every second prompt starts as the one before: its blocks are cached.
    const auto answer = (*cluster)->Generate(
        Request(70 + 25 * static_cast<uint32_t>(i), i / 2));
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->tokens.size(), 3u);
  }
  const std::string sent = (*cluster)->Metrics("p0");
  EXPECT_GE(Value(sent, "sluice_kv_rectangles_total{digests=\"kept\"}"),
            kRequests);
  EXPECT_EQ(Value(sent, "sluice_kv_rectangles_total{digests=\"read\"}"), 0);
  const std::string received = (*cluster)->Metrics("d0");
  EXPECT_EQ(
      Value(received,
            absl::StrCat("sluice_kv_transfers_total{direction=\"receive\""
                         ",transport=\"",
                         transport, "\",state=\"completed\",code=\"ok\"}")),
      kRequests);
  EXPECT_TRUE((*cluster)->Stop().ok());
}

INSTANTIATE_TEST_SUITE_P(Transports, KeptDigests,
                         testing::Values("shm", "ucx"));

}  // namespace
}  // namespace sluice
