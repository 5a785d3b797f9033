// A stranger speaks Kv, Link and Submit to the workers of a live cluster in
// every wrong way: each gets the status of its mistake, the workers stay up,
// others' requests do not notice, and nothing is left behind.

#include <arpa/inet.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kvtransfer/layout_manifest.h"
#include "kvtransfer/wire/kv_wire.h"
#include "proto/kv.grpc.pb.h"
#include "proto/worker.grpc.pb.h"
#include "tests/integration/fault_load.h"
#include "tests/integration/local_cluster.h"
#include "tests/worker/exec/rig.h"

namespace sluice {
namespace {

constexpr int64_t kQuietMs = 2000;
constexpr char kWorkerKey[] = "x-sluice-worker";

std::string RandomText(std::mt19937& random, size_t size) {
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(10));
}

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(),
                                   arguments);
}

// `bytes` as the request of a unary or streaming method.
grpc::StatusCode CallRaw(const std::shared_ptr<grpc::Channel>& channel,
                         const std::string& method, const std::string& bytes) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  SetDeadline(context);
  context.AddMetadata(kWorkerKey, "stranger");
  grpc::CompletionQueue queue;
  auto call = stub.PrepareCall(&context, method, &queue);
  const auto next = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  call->StartCall(nullptr);
  next();
  grpc::Slice slice(bytes);
  grpc::ByteBuffer buffer(&slice, 1);
  call->WriteLast(buffer, grpc::WriteOptions(), nullptr);
  next();
  // The status comes after what is to be read.
  grpc::ByteBuffer answer;
  do {
    call->Read(&answer, nullptr);
  } while (next());
  grpc::Status status;
  call->Finish(&status, nullptr);
  next();
  queue.Shutdown();
  while (next()) {
  }
  return status.error_code();
}

// A worker that exists only on the wire.
class Stranger {
 public:
  Stranger(std::string name, const std::string& address)
      : name_(std::move(name)),
        channel_(ChannelTo(address)),
        kv_(v1::Kv::NewStub(channel_)),
        worker_(v1::Worker::NewStub(channel_)) {
    grpc::ClientContext context;
    SetDeadline(context);
    EXPECT_TRUE(kv_->GetManifest(&context, {}, &theirs_).ok());
  }

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  const v1::LayoutManifest& theirs() const { return theirs_; }

  // What a worker with the same layout would offer.
  v1::PairRequest Offer() const {
    v1::PairRequest offer;
    *offer.mutable_manifest() = theirs_;
    offer.mutable_manifest()->set_worker(name_);
    Sign(offer);
    offer.set_boot_id("nowhere");
    offer.set_shm_token(std::string(32, 's'));
    offer.set_ucx_token(std::string(32, 'u'));
    offer.add_modes(v1::PULL);
    offer.add_modes(v1::STREAM);
    return offer;
  }
  // Makes the manifest's id right again, if it can be parsed.
  static void Sign(v1::PairRequest& offer) {
    const auto manifest = kvtransfer::FromProto(offer.manifest());
    if (!manifest.ok()) return;
    offer.mutable_manifest()->set_manifest_id(
        kvtransfer::ComputeManifestId(*manifest));
  }
  grpc::Status Pair(const v1::PairRequest& offer, v1::PairResponse* answer) {
    grpc::ClientContext context;
    SetDeadline(context);
    return kv_->Pair(&context, offer, answer);
  }
  grpc::Status Submit(const v1::SubmitRequest& request,
                      const std::function<void(const v1::WorkerEvent&)>& on) {
    grpc::ClientContext context;
    SetDeadline(context);
    auto reader = worker_->Submit(&context, request);
    for (v1::WorkerEvent event; reader->Read(&event);) on(event);
    return reader->Finish();
  }

  // A message as a paired worker writes it.
  v1::KvMessage Message(const std::string& transfer_id) const {
    v1::KvMessage message;
    message.set_transfer_id(transfer_id);
    message.set_from_generation(theirs_.generation());
    message.set_to_generation(theirs_.generation());
    return message;
  }

  // Sends all of it over one Link and returns the answers that are no
  // heartbeat, until there are `want` of them or the link ended.
  struct Heard {
    std::vector<v1::KvMessage> messages;
    grpc::Status status;
  };
  Heard Speak(const std::vector<v1::KvMessage>& messages, size_t want,
              int64_t limit_ms = 10'000) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(limit_ms));
    context.AddMetadata(kWorkerKey, name_);
    auto link = kv_->Link(&context);
    Heard heard;
    for (const v1::KvMessage& message : messages) {
      if (!link->Write(message)) break;
    }
    for (v1::KvMessage message;
         heard.messages.size() < want && link->Read(&message);) {
      if (!message.has_heartbeat()) heard.messages.push_back(message);
    }
    if (heard.messages.size() == want) context.TryCancel();
    heard.status = link->Finish();
    return heard;
  }

 private:
  const std::string name_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Kv::Stub> kv_;
  const std::unique_ptr<v1::Worker::Stub> worker_;
  v1::LayoutManifest theirs_;
};

class HostilePeer : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto cluster = LocalCluster::Start(
        {.model = worker::TinyModelPath("llama"),
         .workers = {{"p0", "prefill", {}}, {"d0", "decode", {}}},
         .worker_flags = {"--kv.blocks=400", "--kv.block_tokens=16",
                          "--cpu.threads=1",
                          absl::StrCat("--kv.transport=", GetParam())},
         .router_flags = {"--route.local_prefill_fallback=false"},
         .step_logs = false});
    ASSERT_TRUE(cluster.ok()) << cluster.status();
    cluster_ = *std::move(cluster);
    auto known = LearnRequests(*cluster_, 12, /*seed=*/31);
    ASSERT_TRUE(known.ok()) << known.status();
    known_ = *std::move(known);
  }

  Stranger Meet(const std::string& worker,
                const std::string& name = "stranger") {
    return Stranger(name, cluster_->AddressOf(worker));
  }

  // The cluster is whole; `disturbed`: calls may have been lost meanwhile.
  void ExpectWhole(const LoadReport& report, bool disturbed) {
    EXPECT_TRUE(report.complaints.empty()) << report.Text();
    EXPECT_GT(report.count(absl::StatusCode::kOk), 0);
    if (!disturbed) {
      EXPECT_EQ(report.count(absl::StatusCode::kUnavailable), 0)
          << report.Text();
    }
    for (const char* name : {"p0", "d0", "router"}) {
      EXPECT_TRUE(cluster_->IsRunning(name)) << cluster_->EndOfLog(name);
    }
    for (const char* name : {"p0", "d0"}) {
      const absl::Status quiet = AwaitQuiet(*cluster_, name, kQuietMs);
      EXPECT_TRUE(quiet.ok()) << quiet;
    }
    const absl::Status ready = cluster_->WaitReady();
    EXPECT_TRUE(ready.ok()) << ready;
    for (const KnownRequest& known : known_) {
      const absl::Status status = CallKnown(*cluster_, known);
      EXPECT_TRUE(status.ok()) << status;
    }
  }

  std::unique_ptr<LocalCluster> cluster_;
  std::vector<KnownRequest> known_;
};

INSTANTIATE_TEST_SUITE_P(Wires, HostilePeer, testing::Values("shm", "ucx"),
                         [](const auto& info) { return info.param; });

struct BadOffer {
  const char* name;
  std::function<void(v1::PairRequest&)> spoil;
  bool sign;  // with an id that fits what was spoilt
  grpc::StatusCode code;
  const char* text;
};

v1::Group& FirstGroup(v1::PairRequest& offer) {
  return *offer.mutable_manifest()
              ->mutable_replicas(0)
              ->mutable_ranks(0)
              ->mutable_groups(0);
}

std::vector<BadOffer> BadOffers() {
  constexpr auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
  constexpr auto kDiffers = grpc::StatusCode::FAILED_PRECONDITION;
  using Offer = v1::PairRequest;
  return {
      {"empty", [](Offer& o) { o.Clear(); }, false, kInvalid, ""},
      {"no manifest", [](Offer& o) { o.clear_manifest(); }, false, kInvalid,
       ""},
      {"other id",
       [](Offer& o) { (*o.mutable_manifest()->mutable_manifest_id())[3] ^= 1; },
       false, kInvalid, "manifest_id is wrong"},
      {"short token", [](Offer& o) { o.set_shm_token("x"); }, false, kInvalid,
       "pair token has 1 bytes"},
      {"mode 77",
       [](Offer& o) { o.add_modes(static_cast<v1::TransferMode>(77)); }, false,
       kInvalid, "77"},
      {"no generation",
       [](Offer& o) { o.mutable_manifest()->set_generation(0); }, true,
       kInvalid, "generation 0"},
      {"long name",
       [](Offer& o) {
         o.mutable_manifest()->set_worker(std::string(100000, 'w'));
       },
       true, kInvalid, "worker name of 100000 bytes"},
      {"blocks of 0 tokens",
       [](Offer& o) { o.mutable_manifest()->set_block_tokens(0); }, true,
       kInvalid, "block_tokens"},
      {"blocks of 2^31 tokens",
       [](Offer& o) { o.mutable_manifest()->set_block_tokens(1u << 31); }, true,
       kInvalid, "block_tokens"},
      {"2^63 blocks",
       [](Offer& o) { FirstGroup(o).set_num_blocks(uint64_t{1} << 63); }, true,
       kInvalid, "group"},
      {"stride of 1 byte",
       [](Offer& o) { FirstGroup(o).set_block_stride_bytes(1); }, true,
       kInvalid, "group"},
      {"base at the end of memory",
       [](Offer& o) { FirstGroup(o).set_base_address(~uint64_t{0} - 4095); },
       true, kInvalid, "group"},
      {"2^32-1 heads", [](Offer& o) { FirstGroup(o).set_num_heads(~0u); }, true,
       kInvalid, "group"},
      {"2^31 layers",
       [](Offer& o) {
         o.mutable_manifest()
             ->mutable_replicas(0)
             ->mutable_ranks(0)
             ->set_num_layers(1u << 31);
       },
       true, kInvalid, ""},
      {"rank twice",
       [](Offer& o) {
         v1::Replica& r = *o.mutable_manifest()->mutable_replicas(0);
         *r.add_ranks() = r.ranks(0);
       },
       true, kInvalid, ""},
      {"10^5 replicas",
       [](Offer& o) {
         v1::LayoutManifest& m = *o.mutable_manifest();
         const v1::Replica replica = m.replicas(0);
         for (int i = 0; i < 100000; ++i) *m.add_replicas() = replica;
       },
       true, kInvalid, "replicas"},
      {"other heads",
       [](Offer& o) {
         FirstGroup(o).set_heads_total(1);
         FirstGroup(o).set_num_heads(1);
       },
       true, kDiffers, "kv layouts differ: group 0 heads_total"},
      {"other weights",
       [](Offer& o) {
         o.mutable_manifest()->set_kv_fingerprint(std::string(32, 'w'));
       },
       true, kDiffers, "kv_fingerprint"},
      {"other numerics",
       [](Offer& o) { o.mutable_manifest()->set_numerics_id("arm.9/00"); },
       true, kDiffers, "numerics"},
      {"another process of ours", [](Offer& o) { o.set_to_generation(7); },
       false, grpc::StatusCode::ABORTED, "stale generation 7, current "},
  };
}

TEST_P(HostilePeer, OffersAreRefusedByTheirMistake) {
  FaultLoad load(*cluster_, known_, {.streams = 2});
  for (const char* name : {"p0", "d0"}) {
    Stranger stranger = Meet(name);
    for (const BadOffer& bad : BadOffers()) {
      SCOPED_TRACE(absl::StrCat(bad.name, " to ", name));
      v1::PairRequest offer = stranger.Offer();
      bad.spoil(offer);
      if (bad.sign) Stranger::Sign(offer);
      v1::PairResponse answer;
      const grpc::Status status = stranger.Pair(offer, &answer);
      EXPECT_EQ(status.error_code(), bad.code) << status.error_message();
      EXPECT_TRUE(absl::StrContains(status.error_message(), bad.text))
          << status.error_message();
    }
    // A worker's own name, and an earlier start of its true peer.
    v1::PairRequest offer = stranger.Offer();
    v1::PairResponse answer;
    offer.mutable_manifest()->set_worker(name);
    Stranger::Sign(offer);
    EXPECT_EQ(stranger.Pair(offer, &answer).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    offer.mutable_manifest()->set_worker(std::string(name) == "p0" ? "d0"
                                                                   : "p0");
    offer.mutable_manifest()->set_generation(5);
    Stranger::Sign(offer);
    const grpc::Status stale = stranger.Pair(offer, &answer);
    EXPECT_EQ(stale.error_code(), grpc::StatusCode::ABORTED);
    EXPECT_TRUE(
        absl::StrContains(stale.error_message(), "stale generation 5, current"))
        << stale.error_message();
  }
  ExpectWhole(load.Stop(), /*disturbed=*/false);
  EXPECT_TRUE(cluster_->Stop().ok());
}

TEST_P(HostilePeer, RandomBytesAreNoMessages) {
  std::mt19937 random(5);
  FaultLoad load(*cluster_, known_, {.streams = 2});
  for (const char* name : {"p0", "d0"}) {
    Stranger stranger = Meet(name);
    for (int i = 0; i < 300; ++i) {
      const std::string bytes =
          RandomText(random, i % 50 == 0 ? 8 << 20 : 1 + random() % 300);
      for (const char* method :
           {"/sluice.v1.Kv/Pair", "/sluice.v1.Kv/Link",
            "/sluice.v1.Worker/Submit", "/sluice.v1.Kv/Nothing"}) {
        EXPECT_NE(CallRaw(stranger.channel(), method, bytes),
                  grpc::StatusCode::OK)
            << method;
      }
    }
    // One bit of a good offer, wherever it is.
    const std::string good = stranger.Offer().SerializeAsString();
    for (int i = 0; i < 300; ++i) {
      std::string bytes = good;
      bytes[random() % bytes.size()] ^= static_cast<char>(1 << (random() % 8));
      CallRaw(stranger.channel(), "/sluice.v1.Kv/Pair", bytes);
    }
  }
  ExpectWhole(load.Stop(), /*disturbed=*/false);
  EXPECT_TRUE(cluster_->Stop().ok());
}

// To the data addresses, as well as connections that say nothing.
TEST_P(HostilePeer, RandomBytesAreNoData) {
  std::mt19937 random(6);
  FaultLoad load(*cluster_, known_, {.streams = 2});
  Stranger stranger = Meet("p0");
  v1::PairResponse address;
  ASSERT_TRUE(stranger.Pair(stranger.Offer(), &address).ok());
  std::vector<int> open;
  for (int i = 0; i < 60; ++i) {
    int fd = -1;
    if (std::string(GetParam()) == "shm") {
      sockaddr_un to = {};
      to.sun_family = AF_UNIX;
      const std::string& name = address.shm_socket();
      ASSERT_FALSE(name.empty());
      std::memcpy(to.sun_path + 1, name.data(), name.size());
      fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
      ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to),
                        static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) +
                                               1 + name.size())),
                0)
          << std::strerror(errno);
    } else {
      const std::vector<std::string> parts =
          absl::StrSplit(address.ucx_address(), ':');
      int port = 0;
      ASSERT_EQ(parts.size(), 2u) << address.ucx_address();
      ASSERT_TRUE(absl::SimpleAtoi(parts[1], &port));
      sockaddr_in to = {};
      to.sin_family = AF_INET;
      to.sin_port = htons(static_cast<uint16_t>(port));
      ASSERT_EQ(inet_pton(AF_INET, parts[0].c_str(), &to.sin_addr), 1);
      fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0)
          << std::strerror(errno);
    }
    if (i % 3 != 0) {
      const std::string bytes = RandomText(random, 1 + random() % 2000);
      // The other end may have closed already.
      (void)send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    }
    if (i % 2 == 0) {
      close(fd);
    } else {
      open.push_back(fd);
    }
  }
  const LoadReport report = load.Stop();
  for (const int fd : open) close(fd);
  ExpectWhole(report, /*disturbed=*/false);
  EXPECT_TRUE(cluster_->Stop().ok());
}

TEST_P(HostilePeer, MessagesAreAnsweredByTheirMistake) {
  FaultLoad load(*cluster_, known_, {.streams = 2});
  for (const char* name : {"p0", "d0"}) {
    SCOPED_TRACE(name);
    Stranger stranger = Meet(name);
    v1::PairResponse answer;
    ASSERT_TRUE(stranger.Pair(stranger.Offer(), &answer).ok());
    const std::string id(16, 'i');
    std::vector<v1::KvMessage> messages;
    const auto say = [&](const std::function<void(v1::KvMessage&)>& set) {
      messages.push_back(stranger.Message(id));
      set(messages.back());
    };
    // Answered: three Refuse, one Stopped, in order.
    say([](v1::KvMessage& m) {
      m.mutable_claim()->set_capability(std::string(16, 'c'));
      m.mutable_claim()->set_manifest_id(std::string(32, 'm'));
    });
    say([](v1::KvMessage& m) {
      m.mutable_rectangle()->set_t1(64);
      for (int i = 0; i < 100000; ++i) m.mutable_rectangle()->add_digests(i);
    });
    say([](v1::KvMessage& m) { m.mutable_stop(); });
    // Of no transfer: nobody answers.
    say([](v1::KvMessage& m) { m.mutable_grant()->set_mode(v1::STREAM); });
    say([](v1::KvMessage& m) {
      m.mutable_outcome()->set_state(v1::COMPLETED);
    });
    say([](v1::KvMessage& m) {
      m.mutable_ack()->set_bytes(~uint64_t{0});
      m.mutable_ack()->set_next_index(~0u);
    });
    say([](v1::KvMessage& m) { m.mutable_stopped(); });
    say([](v1::KvMessage& m) { m.mutable_abort()->set_code(13); });
    say([](v1::KvMessage& m) { m.mutable_first()->add_token_ids(1); });
    for (int i = 0; i < 2000; ++i) {
      say([](v1::KvMessage& m) {
        m.clear_transfer_id();
        m.mutable_heartbeat();
      });
    }
    // Of another start of the worker: Refuse with its generation.
    say([](v1::KvMessage& m) {
      m.set_to_generation(9);
      m.mutable_claim()->set_capability(std::string(16, 'c'));
      m.mutable_claim()->set_manifest_id(std::string(32, 'm'));
    });
    const Stranger::Heard heard = stranger.Speak(messages, 4);
    ASSERT_EQ(heard.messages.size(), 4u) << heard.status.error_message();
    for (const int i : {0, 1}) {
      EXPECT_EQ(heard.messages[i].refuse().code(), grpc::StatusCode::NOT_FOUND)
          << heard.messages[i].DebugString();
      EXPECT_EQ(heard.messages[i].transfer_id(), id);
    }
    EXPECT_TRUE(heard.messages[2].has_stopped())
        << heard.messages[2].DebugString();
    EXPECT_EQ(heard.messages[3].refuse().code(), grpc::StatusCode::ABORTED);
    EXPECT_TRUE(absl::StartsWith(heard.messages[3].refuse().detail(),
                                 "stale generation 9, current "))
        << heard.messages[3].DebugString();
  }
  ExpectWhole(load.Stop(), /*disturbed=*/false);
  EXPECT_TRUE(cluster_->Stop().ok());
}

TEST_P(HostilePeer, MalformedMessagesEndTheirLink) {
  FaultLoad load(*cluster_, known_, {.streams = 2});
  for (const char* name : {"p0", "d0"}) {
    Stranger stranger = Meet(name);
    const std::string id(16, 'i');
    const std::vector<std::function<void(v1::KvMessage&)>> bad = {
        [](v1::KvMessage&) {},  // no body
        [](v1::KvMessage& m) {
          m.set_transfer_id("short");
          m.mutable_stop();
        },
        [](v1::KvMessage& m) { m.mutable_claim()->set_capability("short"); },
        [](v1::KvMessage& m) { m.mutable_abort()->set_code(-5); },
        [](v1::KvMessage& m) { m.mutable_outcome()->set_code(1000); },
        [](v1::KvMessage& m) {
          m.mutable_grant()->set_mode(static_cast<v1::TransferMode>(9));
        },
    };
    for (size_t i = 0; i < bad.size(); ++i) {
      SCOPED_TRACE(absl::StrCat("message ", i, " to ", name));
      v1::PairResponse answer;
      ASSERT_TRUE(stranger.Pair(stranger.Offer(), &answer).ok());
      v1::KvMessage message = stranger.Message(id);
      bad[i](message);
      const Stranger::Heard heard = stranger.Speak({message}, 1);
      EXPECT_TRUE(heard.messages.empty());
      EXPECT_EQ(heard.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
          << heard.status.error_message();
    }
    // Larger than any message may be.
    v1::KvMessage huge = stranger.Message(id);
    huge.mutable_stop()->set_cause(std::string(80 << 20, 'x'));
    EXPECT_NE(stranger.Speak({huge}, 1).status.error_code(),
              grpc::StatusCode::OK);
  }
  ExpectWhole(load.Stop(), /*disturbed=*/false);
  EXPECT_TRUE(cluster_->Stop().ok());
}

// Takes the link of a true peer away, again and again: calls may be lost, but
// the pair comes back.
TEST_P(HostilePeer, StolenLinksComeBack) {
  std::mt19937 random(8);
  FaultLoad load(*cluster_, known_, {.streams = 2});
  for (int i = 0; i < 10; ++i) {
    const std::string worker = i % 2 == 0 ? "p0" : "d0";
    Stranger thief = Meet(worker, worker == "p0" ? "d0" : "p0");
    v1::KvMessage message = thief.Message(std::string(16, 'i'));
    message.mutable_stop();
    thief.Speak({message, message}, 2, /*limit_ms=*/300);
  }
  const LoadReport report = load.Stop();
  for (const char* name : {"p0", "d0"}) {
    const absl::Status peers = AwaitPeers(*cluster_, name, 1, 5000);
    EXPECT_TRUE(peers.ok()) << peers << cluster_->EndOfLog(name);
  }
  ExpectWhole(report, /*disturbed=*/true);
  EXPECT_TRUE(cluster_->Stop().ok());
}

v1::SubmitRequest PrefillRequest(const v1::LayoutManifest& destination,
                                 int tokens) {
  v1::SubmitRequest request;
  request.set_request_id("hostile");
  request.set_attempt(1);
  request.set_phase(v1::SubmitRequest::PHASE_PREFILL);
  for (int i = 0; i < tokens; ++i) request.add_prompt_ids(5 + i);
  request.mutable_sampling()->set_max_tokens(4);
  request.set_seed(1);
  v1::Ticket& ticket = *request.mutable_ticket();
  ticket.set_transfer_id(std::string(16, 't'));
  ticket.set_worker(destination.worker());
  ticket.set_generation(destination.generation());
  ticket.set_manifest_id(destination.manifest_id());
  for (int i = 0; i < (tokens + 15) / 16; ++i) ticket.add_blocks(1 + i);
  ticket.set_num_tokens(tokens);
  ticket.set_remaining_ms(2000);
  ticket.set_capability(std::string(16, 'c'));
  return request;
}

struct ForgedTicket {
  const char* name;
  grpc::StatusCode code;
  std::function<void(v1::SubmitRequest&)> spoil;
};

// Tickets that the decode worker never wrote, and spoilt ones.
TEST_P(HostilePeer, ForgedTicketsMoveNothing) {
  FaultLoad load(*cluster_, known_, {.streams = 2});
  const v1::LayoutManifest decode = Meet("d0").theirs();
  Stranger stranger = Meet("p0");
  using Code = grpc::StatusCode;
  const std::vector<ForgedTicket> cases = {
      {"forged", Code::NOT_FOUND, [](v1::SubmitRequest&) {}},
      {"null block", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_blocks(1, 0); }},
      {"block beyond the pool", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_blocks(1, 400000); }},
      {"block twice", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_blocks(1, 1); }},
      {"no blocks", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->clear_blocks(); }},
      {"10^6 blocks", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) {
         for (int i = 0; i < 1000000; ++i) r.mutable_ticket()->add_blocks(3);
       }},
      {"2^24 tokens", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) {
         r.mutable_ticket()->set_num_tokens(1 << 24);
       }},
      {"2^32-1 tokens", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_num_tokens(~0u); }},
      {"all skipped", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_skip(40); }},
      {"skip inside a block", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_skip(17); }},
      {"skipped block named", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_skip(16); }},
      {"no time left", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_remaining_ms(0); }},
      {"too much time", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_remaining_ms(~0u); }},
      {"short id", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_transfer_id("t"); }},
      {"short manifest id", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_manifest_id("m"); }},
      {"other manifest", Code::FAILED_PRECONDITION,
       [](v1::SubmitRequest& r) {
         r.mutable_ticket()->set_manifest_id(std::string(32, 'm'));
       }},
      {"replica 9", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_replica(9); }},
      {"unknown worker", Code::DEADLINE_EXCEEDED,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_worker("nobody"); }},
      {"old generation", Code::ABORTED,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_generation(3); }},
      {"our own name", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.mutable_ticket()->set_worker("p0"); }},
      {"no ticket", Code::INVALID_ARGUMENT,
       [](v1::SubmitRequest& r) { r.clear_ticket(); }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(cases[i].name);
    v1::SubmitRequest request = PrefillRequest(decode, 40);
    request.set_request_id(absl::StrCat("hostile-", i));
    request.mutable_ticket()->mutable_transfer_id()->at(0) =
        static_cast<char>(i);
    cases[i].spoil(request);
    bool completed = false;
    const grpc::Status status =
        stranger.Submit(request, [&](const v1::WorkerEvent& event) {
          completed =
              completed || (event.has_prefill_done() &&
                            event.prefill_done().state() == v1::COMPLETED);
        });
    EXPECT_FALSE(completed);
    EXPECT_EQ(status.error_code(), cases[i].code) << status.error_message();
  }
  ExpectWhole(load.Stop(), /*disturbed=*/false);
  EXPECT_TRUE(cluster_->Stop().ok());
}

// Reserves blocks and goes away, or lets the ticket expire.
TEST_P(HostilePeer, TicketsThatNobodyUsesExpire) {
  FaultLoad load(*cluster_, known_, {.streams = 2});
  Stranger stranger = Meet("d0");
  for (int i = 0; i < 12; ++i) {
    v1::SubmitRequest request;
    request.set_request_id(absl::StrCat("expires-", i));
    request.set_attempt(1);
    request.set_phase(v1::SubmitRequest::PHASE_DECODE);
    request.set_source(i % 2 == 0 ? "p0" : "nobody");
    for (int t = 0; t < 100; ++t) request.add_prompt_ids(5 + t);
    request.mutable_sampling()->set_max_tokens(4);
    request.set_seed(1);
    const auto until = std::chrono::system_clock::now() +
                       std::chrono::milliseconds(150 + 20 * i);
    request.set_deadline_unix_us(static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(
            until.time_since_epoch())
            .count()));
    bool ticket = false;
    const grpc::Status status =
        stranger.Submit(request, [&](const v1::WorkerEvent& event) {
          ticket = ticket || event.admitted().has_ticket();
        });
    EXPECT_TRUE(ticket);
    // The transfer may expire early enough to compute the prompt here.
    EXPECT_TRUE(status.ok() ||
                status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)
        << status.error_message();
  }
  ExpectWhole(load.Stop(), /*disturbed=*/false);
  EXPECT_TRUE(cluster_->Stop().ok());
}

}  // namespace
}  // namespace sluice
