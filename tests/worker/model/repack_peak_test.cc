// Repacking holds the packed bytes and a small part of the stored ones: it
// lets go of the source's pages as it reads them.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/thread_pool.h"
#include "worker/model/linear.h"
#include "worker/model/page_memory.h"
#include "worker/model/source_digests.h"
#include "worker/model/weight_file.h"

namespace sluice::worker {
namespace {

namespace fs = std::filesystem;

// One matrix of 384 MiB, as large as an embedding may be.
constexpr int64_t kRows = 196'608;
constexpr int64_t kColumns = 1024;
constexpr int64_t kStoredBytes = kRows * kColumns * 2;
constexpr int64_t kSlackBytes = int64_t{256} << 20;

int64_t KibOf(const std::string& key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(key, 0) == 0) return std::stoll(line.substr(key.size()));
  }
  return 0;
}
int64_t PeakBytes() { return KibOf("VmHWM:") * 1024; }

// The peak counts from here on; false where the system does not offer that.
bool ResetPeak() {
  std::ofstream("/proc/self/clear_refs") << "5";
  return PeakBytes() - KibOf("VmRSS:") * 1024 < (8 << 20);
}

TEST(RepackPeak, IsThePackedBytesAndALittle) {
  const std::string path = absl::StrCat(testing::TempDir(), "/matrix");
  { std::ofstream touch(path); }
  fs::resize_file(path, kStoredBytes);
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  fs::remove(path);
  WeightFile weights;
  ASSERT_TRUE(weights
                  .Add({.name = "w",
                        .type_name = "BF16",
                        .format = kernels::WeightFormat::kBF16,
                        .shape = {kRows, kColumns},
                        .bytes = (*file)->data(),
                        .num_bytes = kStoredBytes,
                        .file = *file})
                  .ok());
  const LinearSource source = {.weight = "w", .bias = "", .rows = kRows};
  const auto linear = Linear::Plan(weights, {source}, kColumns, false);
  ASSERT_TRUE(linear.ok()) << linear.status();
  kernels::ThreadPool threads(2);
  if (!ResetPeak()) GTEST_SKIP() << "VmHWM cannot be reset";
  const int64_t before = PeakBytes();

  SourceDigests({.folder = ""}).Of(**file);
  EXPECT_LT(PeakBytes() - before, kSlackBytes / 4) << "to digest";

  const auto memory = PageMemory::Allocate(linear->packed_bytes(), "test");
  ASSERT_TRUE(memory.ok()) << memory.status();
  PieceCutter cutter(*memory);
  ASSERT_TRUE(linear->Pack({&threads}, weights, &cutter).ok());
  EXPECT_GE(PeakBytes() - before, linear->packed_bytes());
  EXPECT_LT(PeakBytes() - before, linear->packed_bytes() + kSlackBytes)
      << "to repack";
}

}  // namespace
}  // namespace sluice::worker
