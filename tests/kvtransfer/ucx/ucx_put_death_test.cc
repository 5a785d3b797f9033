// A source that writes by mapping memory, and dies: what its death ends.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <thread>

#include "base/check.h"
#include "tests/kvtransfer/testing/put_end.h"

namespace sluice::kvtransfer {
namespace {

// The child's whole life: a source that writes 1, 2, 3, ... to offset 0 for
// ever. `in` gives nothing; its address goes to `out`.
[[noreturn]] void RunSource(int out) {
  PutEnd source(SharedMemory());
  const LinkId link = *source.wire->Connect(Serving());
  const std::string& address = source.wire->address();
  const uint64_t size = address.size();
  SLUICE_CHECK(write(out, &size, sizeof size) == sizeof size);
  SLUICE_CHECK(write(out, address.data(), size) == static_cast<ssize_t>(size));
  auto* word = reinterpret_cast<uint64_t*>(source.memory->base());
  std::optional<OperationId> put;
  while (true) {
    source.wire->Progress(source.events, false);
    if (source.events.up == 0) continue;
    if (put.has_value() && !source.wire->Poll(*put).has_value()) continue;
    ++*word;
    put = *source.wire->StartPut(link, {{source.memory->base(), 8, 0}});
  }
}

// Processes that write, started before anything of UCX is in this one.
class UcxPutDeath : public testing::Test {
 protected:
  struct Source {
    pid_t pid = -1;
    std::string address;
  };
  static void SetUpTestSuite() {
    for (Source& source : sources_) {
      int ends[2];
      SLUICE_CHECK(pipe(ends) == 0);
      source.pid = fork();
      SLUICE_CHECK(source.pid >= 0);
      if (source.pid == 0) RunSource(ends[1]);
      uint64_t size = 0;
      SLUICE_CHECK(read(ends[0], &size, sizeof size) == sizeof size);
      source.address.resize(size);
      SLUICE_CHECK(read(ends[0], source.address.data(), size) ==
                   static_cast<ssize_t>(size));
      close(ends[0]);
      close(ends[1]);
    }
  }
  static void TearDownTestSuite() {
    for (const Source& source : sources_) {
      kill(source.pid, SIGKILL);
      waitpid(source.pid, nullptr, 0);
    }
  }
  static Source sources_[2];
};
UcxPutDeath::Source UcxPutDeath::sources_[2];

TEST_F(UcxPutDeath, OnlyTheDeathOfTheSourceIsAFence) {
  const Source& source = sources_[0];
  PutEnd target(SharedMemory());
  const LinkId link = *target.wire->Connect(Dialling(source.address));
  const volatile uint64_t* word =
      reinterpret_cast<const uint64_t*>(target.memory->base());
  while (target.events.up == 0 || *word < 100) {
    ASSERT_TRUE(target.events.down.empty()) << target.events.down[0];
    target.wire->Progress(target.events, false);
  }
  // Closed, but the source lives and writes on: no fence.
  target.wire->Close(link);
  uint64_t before = *word;
  for (int i = 0; i < 3; ++i) {
    for (int turn = 0; turn < 1000; ++turn) {
      target.wire->Progress(target.events, false);
    }
    while (*word == before) std::this_thread::yield();
    before = *word;
  }
  target.wire->Deregister();
  target.wire->Progress(target.events, false);
  EXPECT_TRUE(target.events.fences.empty());
  ASSERT_EQ(kill(source.pid, SIGKILL), 0);
  while (target.events.fences.empty()) {
    target.wire->Progress(target.events, false);
  }
  EXPECT_EQ(target.events.fences[0].first, link);
  EXPECT_EQ(target.events.fences[0].second, Fence::kDeath);
  before = *word;
  for (int turn = 0; turn < 1000; ++turn) {
    target.wire->Progress(target.events, false);
  }
  EXPECT_EQ(*word, before);
}

TEST_F(UcxPutDeath, EndsTheLinkAndLeavesTheSurvivorWhole) {
  const Source& source = sources_[1];
  PutEnd target(SharedMemory());
  ASSERT_TRUE(target.wire->Connect(Dialling(source.address)).ok());
  while (target.events.up == 0) {
    ASSERT_TRUE(target.events.down.empty()) << target.events.down[0];
    target.wire->Progress(target.events, false);
  }
  ASSERT_EQ(kill(source.pid, SIGKILL), 0);
  while (target.events.down.empty()) {
    target.wire->Progress(target.events, false);
  }
  EXPECT_EQ(target.events.down[0].message(),
            "peer source: its process has ended");
}

}  // namespace
}  // namespace sluice::kvtransfer
