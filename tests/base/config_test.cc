#include "base/config.h"

#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "tests/base/config_test.pb.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<CommandLine> Parse(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv = {"program"};
  for (const std::string& a : arguments) argv.push_back(a.c_str());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data(),
                          {"smoke"});
}

absl::Status Load(const std::vector<std::string>& arguments,
                  test::Config& config) {
  const auto line = Parse(arguments);
  if (!line.ok()) return line.status();
  return LoadConfig(*line, config);
}

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

TEST(CommandLineTest, OwnFlags) {
  const auto line =
      Parse({"--check", "--version=true", "--config=/x=y", "--probe=ready",
             "--probe.address=[::1]:8003", "--smoke=h:1", "--a.b", "--a.c="});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_TRUE(line->check);
  EXPECT_TRUE(line->version);
  EXPECT_FALSE(line->help);
  EXPECT_EQ(line->config_path, "/x=y");
  EXPECT_EQ(line->probe, "ready");
  EXPECT_EQ(line->probe_address, "[::1]:8003");
  EXPECT_EQ(line->own.at("smoke"), "h:1");
  ASSERT_EQ(line->overrides.size(), 2u);
  EXPECT_FALSE(line->overrides[0].has_value);
  EXPECT_TRUE(line->overrides[1].has_value);
}

TEST(CommandLineTest, Errors) {
  for (const std::string wrong :
       {"positional", "-x", "--", "--=1", "--probe=dead", "--probe",
        "--config=", "--check=maybe", "--smoke", ""}) {
    const auto line = Parse({wrong});
    EXPECT_EQ(line.status().code(), absl::StatusCode::kInvalidArgument)
        << wrong;
    EXPECT_THAT(std::string(line.status().message()),
                HasSubstr("\"" + wrong + "\""));
  }
  EXPECT_FALSE(Parse({"--check", "--check"}).ok());
}

TEST(ConfigTest, EveryTypeByFlag) {
  test::Config config;
  const absl::Status status =
      Load({"--inner.name=a=b c", "--inner.fast", "--inner.count=4294967295",
            "--inner.peers=x:1", "--inner.peers=y:2", "--inner.shade=dark",
            "--small=-7", "--large=-9223372036854775808",
            "--unsigned_large=18446744073709551615", "--ratio=2.5e-3",
            "--half=0.5", "--on=true", "--sizes=1", "--sizes=2",
            "--shades=PLAIN", "--shades=shade_dark"},
           config);
  ASSERT_TRUE(status.ok()) << status;
  test::Config want;
  want.mutable_inner()->set_name("a=b c");
  want.mutable_inner()->set_fast(true);
  want.mutable_inner()->set_count(4294967295u);
  want.mutable_inner()->add_peers("x:1");
  want.mutable_inner()->add_peers("y:2");
  want.mutable_inner()->set_shade(test::SHADE_DARK);
  want.set_small(-7);
  want.set_large(INT64_MIN);
  want.set_unsigned_large(UINT64_MAX);
  want.set_ratio(2.5e-3);
  want.set_half(0.5);
  want.set_on(true);
  want.add_sizes(1);
  want.add_sizes(2);
  want.add_shades(test::PLAIN);
  want.add_shades(test::SHADE_DARK);
  EXPECT_EQ(config.DebugString(), want.DebugString());

  // What EffectiveConfig() prints gives the same again.
  std::vector<std::string> flags;
  std::string line;
  std::istringstream lines(EffectiveConfig(config));
  while (std::getline(lines, line)) flags.push_back("--" + line);
  test::Config again;
  const absl::Status reload = Load(flags, again);
  EXPECT_TRUE(reload.ok()) << reload;
  EXPECT_TRUE(
      google::protobuf::util::MessageDifferencer::Equals(again, config));
}

TEST(ConfigTest, FlagsWinOverFile) {
  const std::string path = WriteFile("config.textproto",
                                     "# a comment\n"
                                     "inner { name: 'file' count: 3\n"
                                     "  peers: 'p' peers: 'q' }\n"
                                     "on: true sizes: [5, 6]\n"
                                     "list { name: 'l' }\n");
  test::Config config;
  ASSERT_TRUE(Load({"--inner.count=4", "--config=" + path, "--on=false",
                    "--inner.peers=r"},
                   config)
                  .ok());
  EXPECT_EQ(config.inner().name(), "file");
  EXPECT_EQ(config.inner().count(), 4u);
  EXPECT_FALSE(config.on());
  ASSERT_EQ(config.inner().peers_size(), 1);
  EXPECT_EQ(config.inner().peers(0), "r");
  EXPECT_EQ(config.sizes_size(), 2);
  EXPECT_THAT(EffectiveConfig(config),
              HasSubstr("inner.count=4\ninner.peers=r\ninner.shade="));
}

TEST(ConfigTest, WrongFlags) {
  struct Case {
    std::vector<std::string> arguments;
    std::string want;
  };
  const Case cases[] = {
      {{"--no.such=1"}, "--no.such: no such flag"},
      {{"--inner.nope=1"}, "--inner.nope: no such flag"},
      {{"--inner.name.x=1"}, "--inner.name.x: no such flag"},
      {{"--inner..name=1"}, "no such flag"},
      {{"--Inner.name=1"}, "no such flag"},
      {{"--inner=x"}, "--inner: names a group"},
      {{"--inner"}, "--inner: names a group"},
      {{"--list=x"}, "--list: names a group"},
      {{"--list.name=x"}, "--list.name: fields of a list"},
      {{"--small"}, "--small: needs a value"},
      {{"--small="}, "--small: \"\" is not an integer"},
      {{"--small=2147483648"}, "\"2147483648\" is not an integer of 32"},
      {{"--small= 1"}, "is not an integer"},
      {{"--small=1x"}, "is not an integer"},
      {{"--inner.count=-1"}, "\"-1\" is not an integer in 0..4294967295"},
      {{"--unsigned_large=18446744073709551616"}, "is not an integer in 0.."},
      {{"--ratio=nan"}, "is not a finite number"},
      {{"--ratio=inf"}, "is not a finite number"},
      {{"--ratio="}, "is not a finite number"},
      {{"--half=1e300"}, "is not a finite number"},
      {{"--on=yes"}, "\"yes\" is not true or false"},
      {{"--inner.shade=pink"}, "\"pink\" is not unspecified, dark, plain"},
      {{"--small=1", "--small=2"}, "--small: given twice"},
  };
  for (const Case& c : cases) {
    test::Config config;
    const absl::Status status = Load(c.arguments, config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument)
        << c.arguments[0];
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.want));
  }
}

TEST(ConfigTest, WrongFiles) {
  struct Case {
    std::string path;
    std::string want;
  };
  const Case cases[] = {
      {"/no/such/file", "No such file"},
      {::testing::TempDir(), "cannot read"},
      {WriteFile("a", "small: 1\nbig: 2\n"), "2:"},
      {WriteFile("b", "big: 2\n"), "\"big\""},
      {WriteFile("c", "small: 'x'"), "1:8"},
      {WriteFile("d", "inner {"), "1:"},
      {WriteFile("e", "small: 1 small: 2"), "small"},
      {WriteFile("f", "small: 99999999999"), "1:8"},
  };
  for (const Case& c : cases) {
    test::Config config;
    const absl::Status status = Load({"--config=" + c.path}, config);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << c.path;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.path));
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.want));
  }
  test::Config config;
  EXPECT_TRUE(Load({"--config=" + WriteFile("empty", "")}, config).ok());
}

}  // namespace
}  // namespace sluice
