// docs/metrics.md names exactly what running processes export.

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/integration/local_cluster.h"
#include "tests/worker/exec/rig.h"

namespace sluice {
namespace {

using Families = std::map<std::string, std::string>;  // name to type

Families Exported(const std::string& exposition) {
  Families families;
  for (absl::string_view line : absl::StrSplit(exposition, '\n')) {
    if (!absl::ConsumePrefix(&line, "# TYPE ")) continue;
    const std::vector<std::string> parts = absl::StrSplit(line, ' ');
    if (parts.size() == 2) families[parts[0]] = parts[1];
  }
  return families;
}

// The table under "## <section>".
Families Documented(const std::string& text, const std::string& section) {
  Families families;
  bool inside = false;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::ConsumePrefix(&line, "## ")) inside = line == section;
    if (!inside || !absl::ConsumePrefix(&line, "| `")) continue;
    const std::vector<std::string> cells = absl::StrSplit(line, '|');
    if (cells.size() < 2) continue;
    const std::string name(
        absl::StripSuffix(absl::StripAsciiWhitespace(cells[0]), "`"));
    families[name] = std::string(absl::StripAsciiWhitespace(cells[1]));
  }
  return families;
}

TEST(MetricsDoc, NamesWhatTheProcessesExport) {
  const auto cluster = LocalCluster::Start(
      {.model = worker::TinyModelPath("llama"),
       .workers = {{.instance = "p0", .role = "prefill", .flags = {}},
                   {.instance = "d0", .role = "decode", .flags = {}}},
       .worker_flags = {"--kv.memory_bytes=67108864"},
       .router_flags = {"--route.local_prefill_fallback=false"}});
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  v1::GenerateRequest request;
  for (const uint32_t id : {5u, 17u, 99u})
    request.mutable_tokens()->add_ids(id);
  request.mutable_sampling()->set_max_tokens(4);
  request.mutable_sampling()->set_ignore_eos(true);
  const auto answer = (*cluster)->Generate(request);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->tokens.size(), 4u);

  std::ifstream file("docs/metrics.md");
  const std::string text((std::istreambuf_iterator<char>(file)),
                         std::istreambuf_iterator<char>());
  Families worker = Exported((*cluster)->Metrics("p0"));
  worker.merge(Exported((*cluster)->Metrics("d0")));
  EXPECT_GT(worker.size(), 20u);
  EXPECT_EQ(Documented(text, "Worker"), worker);
  EXPECT_EQ(Documented(text, "Router"),
            Exported((*cluster)->Metrics("router")));
  EXPECT_TRUE((*cluster)->Stop().ok());
}

}  // namespace
}  // namespace sluice
