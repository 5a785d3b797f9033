#include "worker/worker_options.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "absl/strings/match.h"

namespace sluice::worker {
namespace {

config::WorkerConfig ConfigWithCache(const std::string& cache_dir) {
  config::WorkerConfig config;
  config.mutable_model()->set_path("/m.gguf");
  config.mutable_weights()->set_cache_dir(cache_dir);
  return config;
}

TEST(WorkerOptions, CacheOfWeightsIsAFolderOrOff) {
  setenv("XDG_CACHE_HOME", "/somewhere", 1);
  struct Case {
    const char* value;
    const char* folder;
  };
  for (const Case& c : {Case{"", "/somewhere/sluice/weights"}, Case{"off", ""},
                        Case{"/a/b", "/a/b"}}) {
    const auto options = MakeWorkerOptions(ConfigWithCache(c.value));
    ASSERT_TRUE(options.ok()) << options.status();
    EXPECT_EQ(options->load.cache_folder, c.folder);
  }
  for (const char* wrong : {"relative/path", "~/cache", "OFF", " "}) {
    const absl::Status status =
        MakeWorkerOptions(ConfigWithCache(wrong)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong;
    EXPECT_TRUE(absl::StrContains(
        status.message(),
        "weights.cache_dir must be empty, off or an absolute path, got"))
        << status;
  }
}

}  // namespace
}  // namespace sluice::worker
