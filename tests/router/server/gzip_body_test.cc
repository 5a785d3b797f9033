#include "router/server/gzip_body.h"

#include <string>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"

namespace sluice::router {
namespace {

constexpr char kText[] = "{\"prompt\":\"ab\"}";
// kText, as `gzip -n` and `gzip -N` write it.
constexpr char kPlain[] =
    "1f8b08000000000002ffab562a28cacf2d2851b2524a4c52aa05003da575690f"
    "000000";
constexpr char kNamed[] =
    "1f8b08080000000002ff626f64792e6a736f6e00ab562a28cacf2d2851b2524a"
    "4c52aa05003da575690f000000";
// 300000 times "a".
constexpr char kLong[] =
    "1f8b0800000000000203edc1010d000000c2a0acef5fc21e0e28000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "00000000000000000000000000000000000000000000000000000000f8315ff2"
    "4ef4e0930400";

std::string Bytes(const char* hex) { return absl::HexStringToBytes(hex); }

TEST(GunzipTest, UnpacksMembers) {
  EXPECT_EQ(*Gunzip(Bytes(kPlain), 100), kText);
  EXPECT_EQ(*Gunzip(Bytes(kNamed), 100), kText);
  EXPECT_EQ(*Gunzip(Bytes(kPlain) + Bytes(kNamed), 100),
            std::string(kText) + kText);
  EXPECT_EQ(*Gunzip(Bytes(kLong), 300'000), std::string(300'000, 'a'));
}

TEST(GunzipTest, MoreThanTheLimitIsRefused) {
  EXPECT_EQ(Gunzip(Bytes(kLong), 299'999).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Gunzip(Bytes(kPlain) + Bytes(kPlain), 20).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(GunzipTest, EveryCutIsRefused) {
  for (const char* hex : {kPlain, kNamed, kLong}) {
    const std::string whole = Bytes(hex);
    for (size_t size = 0; size < whole.size(); ++size) {
      EXPECT_EQ(Gunzip(whole.substr(0, size), 1 << 20).status().code(),
                absl::StatusCode::kInvalidArgument)
          << size;
    }
  }
}

TEST(GunzipTest, EveryFlippedBitIsRefusedOrHarmless) {
  const std::string whole = Bytes(kPlain);
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string broken = whole;
      broken[at] = static_cast<char>(broken[at] ^ (1 << bit));
      const auto text = Gunzip(broken, 1 << 20);
      // Bytes 4..9 hold the time, a hint and the system.
      EXPECT_TRUE(!text.ok() || *text == kText) << at << "." << bit;
      if (at < 3 || at >= whole.size() - 8) EXPECT_FALSE(text.ok()) << at;
    }
  }
}

TEST(GunzipTest, TextAfterTheEndIsRefused) {
  EXPECT_FALSE(Gunzip(Bytes(kPlain) + "x", 100).ok());
  EXPECT_FALSE(Gunzip("{}", 100).ok());
}

}  // namespace
}  // namespace sluice::router
