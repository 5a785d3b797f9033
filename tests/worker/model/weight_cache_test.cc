#include "worker/model/weight_cache.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/thread_pool.h"
#include "worker/model/loaded_model.h"

namespace sluice::worker {
namespace {

namespace fs = std::filesystem;

constexpr char kModel[] = "tests/golden/tiny/llama";

std::string EmptyFolder(const std::string& name) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/", name);
  fs::remove_all(folder);
  return folder;
}

LoadedModel Load(const LoadOptions& options) {
  kernels::ThreadPool threads(2);
  absl::StatusOr<LoadedModel> model = LoadModel(options, {&threads}, {});
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::string PackedBytesOf(const LoadedModel& model) {
  const PageMemory& memory = model.model->weights().memory;
  return {reinterpret_cast<const char*>(memory.data()),
          static_cast<size_t>(memory.size_bytes())};
}

// The entries of a folder.
std::vector<std::string> EntriesIn(const std::string& folder) {
  std::vector<std::string> entries;
  for (const auto& file : fs::directory_iterator(folder)) {
    if (file.path().extension() == ".weights") entries.push_back(file.path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

bool HasTemporary(const std::string& folder) {
  for (const auto& file : fs::directory_iterator(folder)) {
    if (file.path().extension() == ".tmp") return true;
  }
  return false;
}

std::string Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// How often this process maps `path` shared and read-only.
int MappingsOf(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);) {
    count += absl::EndsWith(line, path) && absl::StrContains(line, " r--s ");
  }
  return count;
}

TEST(WeightCache, SecondLoadMapsTheSameBytes) {
  const std::string folder = EmptyFolder("second");
  const LoadedModel own = Load({.path = kModel});
  EXPECT_EQ(own.weights_in, WeightsIn::kOwnMemory);
  const LoadedModel first = Load({.path = kModel, .cache_folder = folder});
  EXPECT_EQ(first.weights_in, WeightsIn::kNewCache);
  const LoadedModel second = Load({.path = kModel, .cache_folder = folder});
  EXPECT_EQ(second.weights_in, WeightsIn::kKnownCache);
  for (const LoadedModel* model : {&first, &second}) {
    EXPECT_TRUE(model->warnings.empty()) << model->warnings[0];
    EXPECT_TRUE(PackedBytesOf(*model) == PackedBytesOf(own));
    EXPECT_EQ(model->files.digest, own.files.digest);
    EXPECT_EQ(model->weight_bytes, own.weight_bytes);
  }
  ASSERT_EQ(EntriesIn(folder).size(), 1u);
  EXPECT_FALSE(HasTemporary(folder));
  // Neither keeps a copy of its own.
  EXPECT_EQ(MappingsOf(fs::canonical(EntriesIn(folder)[0])), 2);
}

TEST(WeightCache, TellsWhatBytesDependOnApart) {
  const std::string folder = EmptyFolder("apart");
  const std::string changed = EmptyFolder("changed");
  fs::create_directories(changed);
  for (const auto& file : fs::directory_iterator(kModel)) {
    fs::copy_file(fs::canonical(file.path()),
                  fs::path(changed) / file.path().filename());
  }
  const std::string weights = changed + "/model.safetensors";
  fs::permissions(weights, fs::perms::owner_write, fs::perm_options::add);
  std::string bytes = Read(weights);
  bytes[bytes.size() - 5] ^= 1;
  Write(weights, bytes);
  const LoadOptions options[] = {
      {.path = kModel, .cache_folder = folder},
      {.path = kModel, .widen_to_f32 = true, .cache_folder = folder},
      {.path = changed, .cache_folder = folder}};
  for (const WeightsIn wanted :
       {WeightsIn::kNewCache, WeightsIn::kKnownCache}) {
    for (const LoadOptions& one : options) {
      LoadOptions uncached = one;
      uncached.cache_folder.clear();
      const LoadedModel model = Load(one);
      EXPECT_EQ(model.weights_in, wanted);
      EXPECT_TRUE(PackedBytesOf(model) == PackedBytesOf(Load(uncached)));
    }
  }
  EXPECT_EQ(EntriesIn(folder).size(), 3u);
}

TEST(WeightCache, SpoiltEntriesAreWrittenAnew) {
  const std::string expected = PackedBytesOf(Load({.path = kModel}));
  struct Case {
    const char* name;
    std::function<void(const std::string& path)> spoil;
    const char* warning;
  };
  const auto flip = [](int64_t from_end) {
    return [from_end](const std::string& path) {
      std::string bytes = Read(path);
      bytes[bytes.size() - from_end] ^= 4;
      Write(path, bytes);
    };
  };
  const Case cases[] = {
      {"packed", flip(20000), "does not match its digest"},
      {"first",
       [](const std::string& path) {
         std::string bytes = Read(path);
         bytes[0] ^= 1;
         Write(path, bytes);
       },
       "does not match its digest"},
      // The footer: magic 8, version 4, layout 4, size 8, digest 8, key 32.
      {"magic", flip(64), "of other weights"},
      {"version", flip(56), "of other weights"},
      {"layout", flip(52), "of other weights"},
      {"size", flip(48), "of other weights"},
      {"digest", flip(40), "does not match its digest"},
      {"key", flip(1), "of other weights"},
      {"cut",
       [](const std::string& path) {
         fs::resize_file(path, fs::file_size(path) - 4096);
       },
       " bytes, wanted "},
      {"longer",
       [](const std::string& path) {
         fs::resize_file(path, fs::file_size(path) + 1);
       },
       " bytes, wanted "},
      {"empty", [](const std::string& path) { Write(path, ""); },
       "has 0 bytes"},
      {"writable",
       [](const std::string& path) {
         fs::permissions(path, fs::perms::others_write, fs::perm_options::add);
       },
       "can be written by others"},
      {"folder",
       [](const std::string& path) {
         fs::remove(path);
         fs::create_directory(path);
       },
       "is not a regular file"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const std::string folder = EmptyFolder("spoilt");
    Load({.path = kModel, .cache_folder = folder});
    ASSERT_EQ(EntriesIn(folder).size(), 1u);
    c.spoil(EntriesIn(folder)[0]);
    const LoadedModel model = Load({.path = kModel, .cache_folder = folder});
    EXPECT_TRUE(PackedBytesOf(model) == expected);
    ASSERT_EQ(model.warnings.size(), 1u);
    EXPECT_TRUE(absl::StrContains(model.warnings[0], c.warning))
        << model.warnings[0];
    EXPECT_FALSE(HasTemporary(folder));
    const bool is_folder = c.name == std::string("folder");
    EXPECT_EQ(model.weights_in,
              is_folder ? WeightsIn::kOwnMemory : WeightsIn::kNewCache);
    if (is_folder) continue;
    const LoadedModel next = Load({.path = kModel, .cache_folder = folder});
    EXPECT_EQ(next.weights_in, WeightsIn::kKnownCache);
    EXPECT_TRUE(next.warnings.empty());
    EXPECT_TRUE(PackedBytesOf(next) == expected);
  }
}

// A copy of another model's entry, under the name of this one's.
TEST(WeightCache, AnotherModelsEntryIsNotTaken) {
  const std::string folder = EmptyFolder("ours");
  const std::string theirs = EmptyFolder("theirs");
  Load({.path = kModel, .cache_folder = folder});
  Load({.path = "tests/golden/tiny/llama3_rope", .cache_folder = theirs});
  fs::copy_file(EntriesIn(theirs)[0], EntriesIn(folder)[0],
                fs::copy_options::overwrite_existing);
  const LoadedModel model = Load({.path = kModel, .cache_folder = folder});
  EXPECT_EQ(model.weights_in, WeightsIn::kNewCache);
  EXPECT_EQ(model.warnings.size(), 1u);
  EXPECT_TRUE(PackedBytesOf(model) == PackedBytesOf(Load({.path = kModel})));
}

TEST(WeightCache, AFolderThatCannotBeMadeIsOneWarning) {
  const std::string file = EmptyFolder("file");
  Write(file, "no folder");
  for (const std::string& folder :
       {file, file + "/below", std::string("/proc/sluice/weights")}) {
    const LoadedModel model = Load({.path = kModel, .cache_folder = folder});
    EXPECT_EQ(model.weights_in, WeightsIn::kOwnMemory);
    ASSERT_EQ(model.warnings.size(), 1u);
    EXPECT_TRUE(absl::StrContains(model.warnings[0], folder))
        << model.warnings[0];
    EXPECT_GT(model.weight_bytes, 0);
  }
}

TEST(WeightCache, AFullDiskIsOneWarningAndLeavesNothing) {
  const std::string folder = EmptyFolder("full");
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 100'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const LoadedModel model = Load({.path = kModel, .cache_folder = folder});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(model.weights_in, WeightsIn::kOwnMemory);
  ASSERT_EQ(model.warnings.size(), 1u);
  EXPECT_TRUE(absl::StrContains(model.warnings[0], "cannot write"))
      << model.warnings[0];
  EXPECT_TRUE(PackedBytesOf(model) == PackedBytesOf(Load({.path = kModel})));
  EXPECT_TRUE(EntriesIn(folder).empty());
  EXPECT_FALSE(HasTemporary(folder));
}

TEST(WeightCache, OfWorkersThatStartTogetherOneRepacks) {
  const std::string folder = EmptyFolder("together");
  constexpr int kWorkers = 4;
  std::vector<WeightsIn> places(kWorkers);
  std::vector<std::string> warnings(kWorkers);
  {
    std::vector<std::jthread> workers;
    for (int i = 0; i < kWorkers; ++i) {
      workers.emplace_back([&, i] {
        const LoadedModel model =
            Load({.path = kModel, .cache_folder = folder});
        places[i] = model.weights_in;
        if (!model.warnings.empty()) warnings[i] = model.warnings[0];
      });
    }
  }
  for (const std::string& warning : warnings) EXPECT_EQ(warning, "");
  EXPECT_EQ(std::count(places.begin(), places.end(), WeightsIn::kNewCache), 1);
  EXPECT_EQ(std::count(places.begin(), places.end(), WeightsIn::kKnownCache),
            kWorkers - 1);
}

class WeightCacheLock : public testing::Test {
 protected:
  const std::string folder_ = EmptyFolder("lock");
  kernels::ThreadPool threads_{2};
  const kernels::OpContext context_ = {.pool = &threads_};
  const PackedPlan plan_ = {.size_bytes = 8192, .text = "plan"};
  const Sha256Digest source_ = Sha256Of("source");
};

TEST_F(WeightCacheLock, WaitsNoLongerThanItIsTold) {
  WeightCache holder({.folder = folder_}, source_);
  EXPECT_FALSE(holder.Find(context_, plan_).has_value());
  WeightCache waiter({.folder = folder_, .wait_ms = 20}, source_);
  EXPECT_FALSE(waiter.Find(context_, plan_).has_value());
  EXPECT_TRUE(absl::StrContains(waiter.warning(), "has held the lock"))
      << waiter.warning();
  // Without the lock it writes nothing and keeps what it has.
  absl::StatusOr<PageMemory> packed = PageMemory::Allocate(8192, "test");
  ASSERT_TRUE(packed.ok());
  const uint8_t* data = packed->data();
  EXPECT_EQ(waiter.Keep(context_, plan_, *std::move(packed)).data(), data);
  EXPECT_TRUE(EntriesIn(folder_).empty());
  // Another model's lock is another one.
  WeightCache other({.folder = folder_, .wait_ms = 0}, Sha256Of("other"));
  EXPECT_FALSE(other.Find(context_, plan_).has_value());
  EXPECT_EQ(other.warning(), "");
}

TEST_F(WeightCacheLock, GoesWithItsHolder) {
  {
    WeightCache dies({.folder = folder_}, source_);
    EXPECT_FALSE(dies.Find(context_, plan_).has_value());
  }
  WeightCache next({.folder = folder_, .wait_ms = 0}, source_);
  // What a worker that died while it wrote leaves behind.
  Write(next.EntryPath(plan_) + ".tmp", "half");
  EXPECT_FALSE(next.Find(context_, plan_).has_value());
  EXPECT_EQ(next.warning(), "");
  absl::StatusOr<PageMemory> packed = PageMemory::Allocate(8192, "test");
  ASSERT_TRUE(packed.ok());
  packed->data()[5000] = 7;
  const PageMemory kept = next.Keep(context_, plan_, *std::move(packed));
  EXPECT_TRUE(next.kept());
  EXPECT_EQ(kept.data()[5000], 7);
  EXPECT_FALSE(HasTemporary(folder_));
}

TEST_F(WeightCacheLock, OldEntriesGoWhenOneIsWritten) {
  WeightCache cache({.folder = folder_, .keep_days = 30}, source_);
  EXPECT_FALSE(cache.Find(context_, plan_).has_value());
  const std::string entry = cache.EntryPath(plan_);
  const std::string source = fs::path(entry).filename().string().substr(0, 32);
  const auto path = [&](const std::string& name) {
    return folder_ + "/" + name;
  };
  const std::string older_layout = path(source + "-v0-aa.weights");
  const std::string newer_layout = path(source + "-v9999-aa.weights");
  const std::string other = path(std::string(32, 'a') + "-v0-aa.weights");
  const std::string unused = path(std::string(32, 'b') + "-v1-aa.weights");
  const std::string foreign = path("mine.txt");
  for (const std::string& file :
       {older_layout, newer_layout, other, unused, foreign}) {
    Write(file, "x");
  }
  for (const std::string& file : {unused, foreign}) {
    fs::last_write_time(
        file, fs::file_time_type::clock::now() - std::chrono::hours(31 * 24));
  }
  absl::StatusOr<PageMemory> packed = PageMemory::Allocate(8192, "test");
  ASSERT_TRUE(packed.ok());
  cache.Keep(context_, plan_, *std::move(packed));
  EXPECT_TRUE(cache.kept());
  EXPECT_FALSE(fs::exists(older_layout));
  EXPECT_FALSE(fs::exists(unused));
  for (const std::string& file : {entry, newer_layout, other, foreign}) {
    EXPECT_TRUE(fs::exists(file)) << file;
  }
}

TEST(DefaultWeightCacheFolder, FollowsTheEnvironment) {
  struct Case {
    const char* cache;
    const char* home;
    const char* folder;
  };
  const Case cases[] = {
      {"/c", "/h", "/c/sluice/weights"},
      {nullptr, "/h", "/h/.cache/sluice/weights"},
      {"relative", "/h", "/h/.cache/sluice/weights"},
      {nullptr, nullptr, ""},
      {nullptr, "relative", ""},
  };
  for (const Case& c : cases) {
    for (const auto& [name, value] : {std::make_pair("XDG_CACHE_HOME", c.cache),
                                      std::make_pair("HOME", c.home)}) {
      if (value == nullptr) {
        unsetenv(name);
      } else {
        setenv(name, value, 1);
      }
    }
    EXPECT_EQ(DefaultWeightCacheFolder(), c.folder);
  }
}

}  // namespace
}  // namespace sluice::worker
