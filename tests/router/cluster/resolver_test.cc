#include "router/cluster/resolver.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "tests/router/testing/fake_worker.h"

namespace sluice::router {
namespace {

using Addresses = std::vector<std::string>;

TEST(HostPortTest, Parses) {
  EXPECT_EQ(ParseHostPort("a.b:80")->host, "a.b");
  EXPECT_EQ(ParseHostPort("[::1]:80")->host, "::1");
  EXPECT_EQ(ParseHostPort("[::1]:80")->port, "80");
  for (const char* bad : {"", "a", ":80", "a:", "a:x", "a:0", "a:65536",
                          "::1:80", "[]:80", "[::1:80"}) {
    EXPECT_EQ(ParseHostPort(bad).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

TEST(ResolverTest, LooksUpNumericAddresses) {
  const auto found = LookUpAddresses("127.0.0.1:9001");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(*found, Addresses{"127.0.0.1:9001"});
}

TEST(ResolverTest, FollowsChangesAndKeepsWhatFails) {
  Mutex mu;
  absl::StatusOr<Addresses> answer = Addresses{"10.0.0.2:1", "10.0.0.1:1"};
  std::vector<Addresses> changes;
  Resolver resolver({.fixed = {"b:1", "a:1", "a:1"},
                     .dns = {"workers:1"},
                     .interval_ms = 1,
                     .look_up =
                         [&](const std::string& name) {
                           EXPECT_EQ(name, "workers:1");
                           MutexLock lock(mu);
                           return answer;
                         },
                     .on_change =
                         [&](Addresses now) {
                           MutexLock lock(mu);
                           changes.push_back(std::move(now));
                         }});
  const auto wait_for = [&](size_t num) {
    return Eventually([&] {
      MutexLock lock(mu);
      return changes.size() >= num;
    });
  };
  resolver.Start();
  ASSERT_TRUE(wait_for(2));
  {
    MutexLock lock(mu);
    EXPECT_EQ(changes[0], (Addresses{"a:1", "b:1"}));
    EXPECT_EQ(changes[1],
              (Addresses{"10.0.0.1:1", "10.0.0.2:1", "a:1", "b:1"}));
    answer = absl::UnavailableError("no DNS");
  }
  // Many failing look-ups later a change is still the third one.
  resolver.Stop();
  {
    MutexLock lock(mu);
    EXPECT_EQ(changes.size(), 2u);
    answer = Addresses{"10.0.0.3:1"};
  }
  resolver.Start();
  ASSERT_TRUE(wait_for(4));
  resolver.Stop();
  EXPECT_EQ(changes[3], (Addresses{"10.0.0.3:1", "a:1", "b:1"}));
}

}  // namespace
}  // namespace sluice::router
