#include "kvtransfer/shm/shm_transport.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>

#include "base/clock.h"
#include "kvtransfer/shm/pool_memory.h"
#include "kvtransfer/shm/shm_handshake.h"

namespace sluice::kvtransfer {
namespace {

struct Events : public TransportEvents {
  void OnLinkUp(LinkId link) override { up.push_back(link); }
  void OnLinkDown(LinkId link, const absl::Status& status) override {
    down.push_back(status);
  }
  void OnData(LinkId, const DataHeader&, absl::Span<const std::byte>) override {
  }
  std::vector<LinkId> up;
  std::vector<absl::Status> down;
};

struct Sink : public ReadSink {
  void OnPiece(size_t, absl::Span<const std::byte> piece,
               const std::byte*) override {
    bytes.insert(bytes.end(), piece.begin(), piece.end());
  }
  std::vector<std::byte> bytes;
};

class Shm : public ::testing::Test {
 protected:
  Shm() {
    owner_ = *ShmTransport::Create({.clock = &clock_});
    reader_ = *ShmTransport::Create({.clock = &clock_});
    pool_ = *PoolMemory::Create(1 << 20);
    EXPECT_TRUE(owner_->Register(pool_->region()).ok());
    for (int i = 0; i < 1 << 20; ++i) {
      pool_->base()[i] = static_cast<std::byte>(i * 7);
    }
  }
  void Progress() {
    for (int quiet = 0; quiet < 20; ++quiet) {
      if (owner_->Progress(owner_events_, false)) quiet = 0;
      if (reader_->Progress(reader_events_, false)) quiet = 0;
    }
  }
  LinkArgs Expecting() {
    return {.peer = "reader",
            .own_token = owner_token_,
            .peer_token = reader_token_};
  }
  LinkArgs Dialling() {
    return {.peer = "owner",
            .dial = true,
            .address = owner_->address(),
            .own_token = reader_token_,
            .peer_token = owner_token_,
            .peer_region_bytes = 1 << 20};
  }

  FakeClock clock_;
  const std::string owner_token_ = std::string(32, 'o');
  const std::string reader_token_ = std::string(32, 'r');
  std::unique_ptr<PoolMemory> pool_;
  std::unique_ptr<ShmTransport> owner_;
  std::unique_ptr<ShmTransport> reader_;
  Events owner_events_;
  Events reader_events_;
};

TEST_F(Shm, ReadsPiecesOfThePool) {
  ASSERT_TRUE(owner_->Connect(Expecting()).ok());
  const LinkId link = *reader_->Connect(Dialling());
  Progress();
  ASSERT_EQ(reader_events_.up, std::vector<LinkId>{link});
  ASSERT_EQ(owner_events_.up.size(), 1u);
  Sink sink;
  const OperationId read =
      *reader_->StartRead(link, {{100, 50}, {7, 3}}, &sink);
  EXPECT_FALSE(reader_->Poll(read).has_value());
  Progress();
  ASSERT_TRUE(reader_->Poll(read)->ok());
  ASSERT_EQ(sink.bytes.size(), 53u);
  EXPECT_EQ(std::memcmp(sink.bytes.data(), pool_->base() + 100, 50), 0);
  EXPECT_EQ(std::memcmp(sink.bytes.data() + 50, pool_->base() + 7, 3), 0);
  for (const ReadPiece bad :
       {ReadPiece{UINT64_MAX, 2}, ReadPiece{2, UINT64_MAX},
        ReadPiece{8 << 20, 1}}) {
    EXPECT_EQ(reader_->StartRead(link, {bad}, &sink).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(Shm, PeerMayDialBeforeItIsExpected) {
  ASSERT_TRUE(reader_->Connect(Dialling()).ok());
  Progress();
  EXPECT_TRUE(reader_events_.up.empty());
  ASSERT_TRUE(owner_->Connect(Expecting()).ok());
  Progress();
  EXPECT_EQ(reader_events_.up.size(), 1u);
}

TEST_F(Shm, WrongTokensGetNoDescriptor) {
  ASSERT_TRUE(owner_->Connect(Expecting()).ok());
  LinkArgs wrong = Dialling();
  wrong.peer_token[0] ^= 1;
  ASSERT_TRUE(reader_->Connect(wrong).ok());
  Progress();
  clock_.AdvanceMs(3000);
  Progress();
  EXPECT_TRUE(reader_events_.up.empty());
  EXPECT_TRUE(owner_events_.up.empty());
  ASSERT_EQ(reader_events_.down.size(), 1u);
  // The other way round: the owner does not know the reader's token.
  LinkArgs impostor = Dialling();
  impostor.own_token[5] ^= 1;
  ASSERT_TRUE(reader_->Connect(impostor).ok());
  Progress();
  EXPECT_TRUE(reader_events_.up.empty());
  ASSERT_EQ(reader_events_.down.size(), 2u);
  EXPECT_EQ(reader_events_.down[1].code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(Shm, TokensAreUsedOnce) {
  ASSERT_TRUE(owner_->Connect(Expecting()).ok());
  ASSERT_TRUE(reader_->Connect(Dialling()).ok());
  Progress();
  ASSERT_TRUE(reader_->Connect(Dialling()).ok());
  Progress();
  clock_.AdvanceMs(3000);
  Progress();
  EXPECT_EQ(reader_events_.up.size(), 1u);
  EXPECT_EQ(reader_events_.down.size(), 1u);
}

TEST_F(Shm, HangUpIsDeathButTheMappingStays) {
  const LinkId served = *owner_->Connect(Expecting());
  const LinkId link = *reader_->Connect(Dialling());
  Progress();
  owner_->Close(served);
  pool_.reset();
  Progress();
  ASSERT_EQ(reader_events_.down.size(), 1u);
  EXPECT_EQ(reader_events_.down[0].code(), absl::StatusCode::kUnavailable);
  Sink sink;
  const OperationId read = *reader_->StartRead(link, {{0, 64}}, &sink);
  Progress();
  EXPECT_TRUE(reader_->Poll(read)->ok());
  EXPECT_EQ(sink.bytes[9], static_cast<std::byte>(63));
  // Close() ends what is still open.
  const OperationId last = *reader_->StartRead(link, {{0, 64}}, &sink);
  reader_->Close(link);
  EXPECT_EQ(reader_->Poll(last)->code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(reader_->StartRead(link, {{0, 64}}, &sink).ok());
}

TEST(PoolMemory, IsSealedAndZero) {
  auto pool = *PoolMemory::Create(10'000);
  const Region region = pool->region();
  EXPECT_EQ(region.size_bytes, 10'000u);
  EXPECT_EQ(pool->base()[9'999], std::byte{0});
  const int want = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
  EXPECT_EQ(fcntl(region.fd, F_GET_SEALS) & want, want);
  EXPECT_EQ(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd, 0),
      MAP_FAILED);
  EXPECT_LT(pwrite(region.fd, "x", 1, 0), 0);
  EXPECT_NE(ftruncate(region.fd, 0), 0);
  pool->base()[0] = std::byte{1};  // ours still writes
  EXPECT_FALSE(PoolMemory::Create(0).ok());
  EXPECT_FALSE(PoolMemory::Create(UINT64_MAX).ok());
}

// Bytes of the mapping at `at` that are mapped by huge pages.
uint64_t HugeMappedBytes(const void* at) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    uint64_t begin = 0;
    uint64_t end = 0;
    uint64_t kib = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      const uint64_t address = reinterpret_cast<uint64_t>(at);
      inside = begin <= address && address < end;
    } else if (inside &&
               std::sscanf(line.c_str(), "ShmemPmdMapped: %lu kB", &kib) == 1) {
      return kib << 10;
    }
  }
  return 0;
}

TEST(PoolMemory, SaysWhatIsOfHugePages) {
  constexpr uint64_t kBytes = (16 << 20) + 10'000;
  const auto pool = *PoolMemory::Create(kBytes);
  EXPECT_EQ(reinterpret_cast<uint64_t>(pool->base()) % (2 << 20), 0u);
  std::memset(pool->base(), 1, kBytes);
  EXPECT_LE(pool->huge_bytes(), kBytes);
  EXPECT_GE(HugeMappedBytes(pool->base()),
            pool->huge_bytes() / (2 << 20) * (2 << 20));
  // A kernel before 6.1 has none, one under pressure perhaps not all.
  std::cout << pool->huge_bytes() << " of " << kBytes << " bytes\n";
}

int MakeFile(uint64_t bytes, int seals) {
  const int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
  return fd;
}

TEST(MapPool, RefusesHostileFiles) {
  constexpr int kAll = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW;
  struct Case {
    uint64_t file_bytes;
    int seals;
    PoolAnnouncement pool;
    uint64_t least;
  };
  const Case cases[] = {
      {8192, F_SEAL_SHRINK | F_SEAL_GROW, {8192, 0, 0}, 100},
      {8192, F_SEAL_FUTURE_WRITE | F_SEAL_GROW, {8192, 0, 0}, 100},
      {8192, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK, {8192, 0, 0}, 100},
      {8192, 0, {8192, 0, 0}, 100},
      {8192, kAll, {8192, 0, 0}, 8193},
      {8192, kAll, {50, 0, 0}, 100},
      {8192, kAll, {8193, 0, 0}, 100},
      {8192, kAll, {UINT64_MAX, 0, 0}, 100},
      {8192, kAll, {8192, 8185, 0}, 100},
      {8192, kAll, {8192, UINT64_MAX, 0}, 100},
      {8192, kAll, {8192, 0, 1}, 100},
      {0, kAll, {0, 0, 0}, 0},
  };
  for (const Case& c : cases) {
    const auto mapped =
        MapPool(MakeFile(c.file_bytes, c.seals), c.pool, c.least);
    EXPECT_EQ(mapped.status().code(), absl::StatusCode::kInvalidArgument)
        << c.file_bytes << " " << c.pool.size_bytes;
  }
  const auto good = MapPool(MakeFile(8192, kAll), {8192, 16, 0}, 8192);
  ASSERT_TRUE(good.ok()) << good.status();
  UnmapPool(*good);
}

TEST(ShmHandshake, MoreThanOneDescriptorIsRefused) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  EXPECT_TRUE(CheckSameUser(pair[0]).ok());
  char byte = 'x';
  iovec part = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(2 * sizeof(int));
  const int fds[2] = {0, 1};
  std::memcpy(CMSG_DATA(header), fds, sizeof fds);
  ASSERT_EQ(sendmsg(pair[0], &message, 0), 1);
  EXPECT_EQ(ReceivePacket(pair[1]).status().code(),
            absl::StatusCode::kInvalidArgument);
  const std::string long_packet(1000, 'y');
  ASSERT_EQ(send(pair[0], long_packet.data(), long_packet.size(), 0), 1000);
  EXPECT_FALSE(ReceivePacket(pair[1]).ok());
  ASSERT_TRUE(SendPacket(pair[0], "ok", 0).ok());
  const auto packet = ReceivePacket(pair[1]);
  ASSERT_TRUE(packet.ok() && packet->has_value());
  EXPECT_EQ((*packet)->bytes, "ok");
  EXPECT_EQ(fcntl((*packet)->passed_fd, F_GETFD), FD_CLOEXEC);
  close((*packet)->passed_fd);
  EXPECT_FALSE((*ReceivePacket(pair[1])).has_value());
  close(pair[0]);
  EXPECT_EQ(ReceivePacket(pair[1]).status().code(),
            absl::StatusCode::kUnavailable);
  close(pair[1]);
  EXPECT_FALSE(ConnectAbstract("").ok());
  EXPECT_FALSE(ConnectAbstract(std::string(500, 'n')).ok());
  EXPECT_FALSE(ConnectAbstract("sluice-kv-nobody").ok());
  EXPECT_FALSE(DecodePool("short").ok());
}

}  // namespace
}  // namespace sluice::kvtransfer
