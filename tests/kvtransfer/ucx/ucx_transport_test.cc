#include "kvtransfer/ucx/ucx_transport.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/clock.h"
#include "kvtransfer/ucx/data_codec.h"

namespace sluice::kvtransfer {
namespace {

struct Events : public TransportEvents {
  void OnLinkUp(LinkId link) override { up.push_back(link); }
  void OnLinkDown(LinkId link, const absl::Status& status) override {
    down.push_back(status);
  }
  void OnData(LinkId link, const DataHeader& header,
              absl::Span<const std::byte> payload) override {
    headers.push_back(header);
    payloads.emplace_back(payload.begin(), payload.end());
  }
  std::vector<LinkId> up;
  std::vector<absl::Status> down;
  std::vector<DataHeader> headers;
  std::vector<std::vector<std::byte>> payloads;
};

class Ucx : public ::testing::Test {
 protected:
  Ucx() {
    sender_ = *UcxTransport::Create({.clock = &clock_});
    receiver_ = *UcxTransport::Create({.clock = &clock_});
  }
  // Runs both until `done`, at most 10 s.
  template <typename Done>
  bool Until(Done done) {
    const int64_t limit = SystemClock::Get().NowMs() + 10'000;
    while (!done()) {
      if (SystemClock::Get().NowMs() > limit) return false;
      if (sender_) sender_->Progress(sender_events_, false);
      receiver_->Progress(receiver_events_, false);
    }
    return true;
  }
  void Turn() {
    int turns = 0;
    Until([&] { return ++turns > 2000; });
  }
  LinkArgs Expecting() {
    return {.peer = "receiver",
            .own_token = sender_token_,
            .peer_token = receiver_token_};
  }
  LinkArgs Dialling() {
    return {.peer = "sender",
            .dial = true,
            .address = sender_->address(),
            .own_token = receiver_token_,
            .peer_token = sender_token_};
  }

  FakeClock clock_;
  const std::string sender_token_ = std::string(32, 's');
  const std::string receiver_token_ = std::string(32, 'r');
  std::unique_ptr<UcxTransport> sender_;
  std::unique_ptr<UcxTransport> receiver_;
  Events sender_events_;
  Events receiver_events_;
};

TEST_F(Ucx, MessagesArriveWhole) {
  ASSERT_TRUE(receiver_->Connect(Dialling()).ok());
  Turn();
  EXPECT_TRUE(receiver_events_.up.empty());  // not expected yet
  const LinkId link = *sender_->Connect(Expecting());
  ASSERT_TRUE(Until([&] {
    return !receiver_events_.up.empty() && !sender_events_.up.empty();
  }));
  std::vector<OperationId> operations;
  for (uint32_t i = 0; i < 40; ++i) {
    DataHeader header;
    header.transfer_id.bytes[0] = static_cast<uint8_t>(i);
    header.from_generation = 5;
    header.index = i;
    header.rectangle = {1, 2, 3, i};
    header.offset = uint64_t{i} << 40;
    std::vector<std::byte> payload(1 + i * 6'000, std::byte(i));
    operations.push_back(*sender_->StartWrite(link, header, payload));
  }
  ASSERT_TRUE(Until([&] { return receiver_events_.headers.size() == 40; }));
  for (uint32_t i = 0; i < 40; ++i) {
    const DataHeader& header = receiver_events_.headers[i];
    const size_t n = header.index;
    EXPECT_EQ(header.rectangle, (Rectangle{1, 2, 3, header.index}));
    EXPECT_EQ(header.offset, uint64_t{header.index} << 40);
    EXPECT_EQ(receiver_events_.payloads[i],
              std::vector<std::byte>(1 + n * 6'000, std::byte(n)));
  }
  for (const OperationId operation : operations) {
    std::optional<absl::Status> status;
    ASSERT_TRUE(Until([&] {
      status = sender_->Poll(operation);
      return status.has_value();
    }));
    EXPECT_TRUE(status->ok());
  }
}

TEST_F(Ucx, WrongTokensAreNeverUp) {
  ASSERT_TRUE(sender_->Connect(Expecting()).ok());
  LinkArgs wrong = Dialling();
  wrong.peer_token[3] ^= 1;
  ASSERT_TRUE(receiver_->Connect(wrong).ok());
  Turn();
  clock_.AdvanceMs(3001);
  ASSERT_TRUE(Until([&] { return !receiver_events_.down.empty(); }));
  LinkArgs impostor = Dialling();
  impostor.own_token[3] ^= 1;
  ASSERT_TRUE(receiver_->Connect(impostor).ok());
  ASSERT_TRUE(Until([&] { return receiver_events_.down.size() == 2; }));
  EXPECT_TRUE(receiver_events_.up.empty());
}

TEST_F(Ucx, CloseEndsOperationsAndIsSeen) {
  const LinkId served = *sender_->Connect(Expecting());
  ASSERT_TRUE(receiver_->Connect(Dialling()).ok());
  ASSERT_TRUE(Until([&] {
    return !receiver_events_.up.empty() && !sender_events_.up.empty();
  }));
  std::vector<OperationId> operations;
  for (int i = 0; i < 64; ++i) {
    operations.push_back(
        *sender_->StartWrite(served, {}, std::vector<std::byte>(200'000)));
  }
  sender_->Close(served);
  EXPECT_FALSE(sender_->StartWrite(served, {}, {}).ok());
  for (const OperationId operation : operations) {
    ASSERT_TRUE(Until([&] { return sender_->Poll(operation).has_value(); }));
  }
  ASSERT_TRUE(Until([&] { return !receiver_events_.down.empty(); }));
}

TEST_F(Ucx, DestructionOfThePeerIsSeen) {
  ASSERT_TRUE(sender_->Connect(Expecting()).ok());
  ASSERT_TRUE(receiver_->Connect(Dialling()).ok());
  ASSERT_TRUE(Until([&] {
    return !receiver_events_.up.empty() && !sender_events_.up.empty();
  }));
  sender_.reset();
  ASSERT_TRUE(Until([&] { return !receiver_events_.down.empty(); }));
  EXPECT_EQ(receiver_events_.down[0].code(), absl::StatusCode::kUnavailable);
}

TEST_F(Ucx, NobodyThere) {
  LinkArgs args = Dialling();
  args.address = "127.0.0.1:1";
  if (receiver_->Connect(args).ok()) {
    EXPECT_TRUE(Until([&] { return !receiver_events_.down.empty(); }));
  }
  for (const char* bad : {"", "host:1", "1.2.3.4:99999", "[::1", ":5"}) {
    args.address = bad;
    EXPECT_EQ(receiver_->Connect(args).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

TEST(DataCodec, RoundTrip) {
  DataHeader header;
  header.transfer_id.bytes[15] = 9;
  header.from_generation = UINT64_MAX;
  header.to_generation = 2;
  header.source_rank = 3;
  header.target_rank = 4;
  header.index = 5;
  header.rectangle = {6, 7, 8, 9};
  header.offset = 10;
  const auto bytes = EncodeDataHeader(header);
  const auto back = DecodeDataHeader(bytes);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(EncodeDataHeader(*back), bytes);
  EXPECT_EQ(back->offset, 10u);
  EXPECT_FALSE(DecodeDataHeader({bytes.data(), bytes.size() - 1}).ok());
}

}  // namespace
}  // namespace sluice::kvtransfer
