#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvtransfer/wire/kv_wire.h"
#include "proto/kv.grpc.pb.h"
#include "proto/worker.grpc.pb.h"
#include "tests/kvtransfer/testing/sharded_cache.h"
#include "tools/kv_dump_run.h"
#include "tools/kv_dump_text.h"

namespace sluice {
namespace {

using kvtransfer::CacheSplit;
using kvtransfer::InnerOrder;
using kvtransfer::LayoutManifest;
using ::testing::HasSubstr;

LayoutManifest ManifestOf(const std::string& worker, const CacheSplit& split,
                          int heads = 6, int layers = 2) {
  LayoutManifest manifest =
      kvtransfer::ShardedCache(kvtransfer::KeyValueModel(heads, 64, layers),
                               split, 40, 1)
          .manifest();
  manifest.worker = worker;
  manifest.generation = 77;
  for (kvtransfer::RankManifest& rank : manifest.replicas[0].ranks) {
    for (kvtransfer::GroupManifest& group : rank.groups) group.num_blocks = 100;
  }
  manifest.manifest_id = ComputeManifestId(manifest);
  return manifest;
}

LayoutManifest TwoRanks() { return ManifestOf("p0", {.ranks = 2}); }
LayoutManifest ThreeRanks() { return ManifestOf("d0", {.ranks = 3}); }

KvDumpResult Dump(const std::vector<std::string>& args) {
  const std::vector<absl::string_view> views(args.begin(), args.end());
  return RunKvDump(views);
}

std::string WriteFile(const std::string& name, const std::string& text) {
  const std::string path = absl::StrCat(testing::TempDir(), "/", name);
  std::ofstream(path) << text;
  return path;
}

std::string ManifestFile(const LayoutManifest& manifest) {
  return WriteFile(absl::StrCat(manifest.worker, ".txt"),
                   kvtransfer::ToProto(manifest).DebugString());
}

// A worker's gRPC server with one manifest, ledger and report.
class FakeWorker final : public v1::Kv::Service, public v1::Worker::Service {
 public:
  FakeWorker() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(static_cast<v1::Kv::Service*>(this));
    builder.RegisterService(static_cast<v1::Worker::Service*>(this));
    server_ = builder.BuildAndStart();
    address = absl::StrCat("127.0.0.1:", port);
  }
  ~FakeWorker() override {
    server_->Shutdown(std::chrono::system_clock::now());
  }

  grpc::Status GetManifest(grpc::ServerContext*, const v1::ManifestRequest*,
                           v1::LayoutManifest* response) override {
    *response = kvtransfer::ToProto(manifest);
    return grpc::Status::OK;
  }
  grpc::Status Ledger(grpc::ServerContext*, const v1::LedgerRequest*,
                      v1::LedgerResponse* response) override {
    *response = ledger;
    return grpc::Status::OK;
  }
  // Like a worker, which goes on reporting until the reader leaves.
  grpc::Status Report(grpc::ServerContext* context, const v1::ReportRequest*,
                      grpc::ServerWriter<v1::WorkerReport>* writer) override {
    while (!context->IsCancelled() && writer->Write(report)) {
    }
    return grpc::Status::OK;
  }

  std::string address;
  LayoutManifest manifest = TwoRanks();
  v1::LedgerResponse ledger;
  v1::WorkerReport report;

 private:
  std::unique_ptr<grpc::Server> server_;
};

// The worked example of kv_transfer.md section 13.
TEST(KvDumpPlan, TellsStreamsAndRectangles) {
  const LayoutManifest source = TwoRanks();
  const LayoutManifest destination = ThreeRanks();
  const auto text = PlanText(
      {.source = &source, .destination = &destination, .num_tokens = 40});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("source p0 generation 77 replica 0: 2 ranks, "
                               "blocks of 16 tokens\n"
                               "destination d0 generation 77 replica 0: 3 "
                               "ranks, blocks of 16 tokens\n"));
  EXPECT_THAT(*text, HasSubstr("tokens [0, 40), 122880 bytes, 4 streams, "
                               "resharded\n"));
  EXPECT_THAT(*text,
              HasSubstr("stream rank 0 to rank 1: layers [0, 2), spans of 16 "
                        "tokens, 256 bytes a token and layer, copied in 12\n"
                        "  group 0 key_value: heads 2, canonical\n"
                        "  rectangle 0: tokens [0, 40), layers [0, 2), source "
                        "blocks [0, 3), destination blocks [0, 3), 3 digests, "
                        "12 runs, 12 copies, 20480 bytes\n"));
  EXPECT_THAT(*text, HasSubstr("stream rank 1 to rank 2"));
  EXPECT_THAT(*text, HasSubstr("heads 4 5"));
}

TEST(KvDumpPlan, OfEqualLayoutsIsOneCopyABlock) {
  const LayoutManifest source = ManifestOf("p0", {.ranks = 1});
  const LayoutManifest destination = ManifestOf("d0", {.ranks = 1});
  const auto text = PlanText({.source = &source,
                              .destination = &destination,
                              .skip_tokens = 16,
                              .num_tokens = 40});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("1 streams, same layouts"));
  EXPECT_THAT(*text, HasSubstr("tokens [16, 40), layers [0, 2), source blocks "
                               "[1, 3), destination blocks [1, 3), 2 digests, "
                               "48 runs, 2 copies"));
}

TEST(KvDumpPlan, CutsWhereASourceDoes) {
  const CacheSplit split{.block_tokens = 64, .order = InnerOrder::kCpuTiles};
  const LayoutManifest source = ManifestOf("p0", split, 8, 32);
  const LayoutManifest destination =
      ManifestOf("d0", {.block_tokens = 16}, 8, 32);
  const auto text = PlanText(
      {.source = &source, .destination = &destination, .num_tokens = 300});
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("converted inner order"));
  EXPECT_THAT(*text, HasSubstr("cpu_tiles to canonical"));
  // 32 layers of 2 KiB a token: 128 tokens are 8 MiB.
  for (const char* tokens : {"[0, 128)", "[128, 256)", "[256, 300)"}) {
    EXPECT_THAT(*text, HasSubstr(absl::StrCat("tokens ", tokens,
                                              ", layers [0, 32), source")));
  }
}

TEST(KvDumpPlan, RefusesWhatCannotBe) {
  const LayoutManifest source = TwoRanks();
  const LayoutManifest destination = ThreeRanks();
  LayoutManifest other = destination;
  other.kv_fingerprint = std::string(32, 'x');
  const auto code = [&](PlanArgs args) {
    args.source = &source;
    if (args.destination == nullptr) args.destination = &destination;
    return PlanText(args).status().code();
  };
  EXPECT_EQ(code({.destination = &other, .num_tokens = 40}),
            absl::StatusCode::kFailedPrecondition);
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({.num_tokens = 0}), invalid);
  EXPECT_EQ(code({.num_tokens = UINT32_MAX}), invalid);
  EXPECT_EQ(code({.skip_tokens = 8, .num_tokens = 40}), invalid);
  EXPECT_EQ(code({.skip_tokens = 48, .num_tokens = 40}), invalid);
  EXPECT_EQ(code({.destination_replica = 1, .num_tokens = 40}), invalid);
}

TEST(KvDump, PrintsAWorkersManifest) {
  FakeWorker worker;
  const KvDumpResult text = Dump({"manifest", worker.address});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("worker p0 generation 77\n"));
  EXPECT_THAT(text.out, HasSubstr("  replica 0 rank 1: layers [0, 2)\n"
                                  "    group 0 key_value: heads [3, 6) of 6, "
                                  "comps 2, head_dim 64, bf16, canonical, "
                                  "token group 1\n"));
  // What --proto prints is read back as the same manifest.
  const KvDumpResult proto = Dump({"manifest", worker.address, "--proto"});
  EXPECT_EQ(proto.exit_code, 0) << proto.err;
  const std::string file = WriteFile("copy.txt", proto.out);
  EXPECT_EQ(Dump({"manifest", file}).out, text.out);
}

TEST(KvDump, PlansBetweenAWorkerAndAFile) {
  FakeWorker worker;
  const LayoutManifest target = ThreeRanks();
  const KvDumpResult result = Dump(
      {"plan", "--source", worker.address,
       absl::StrCat("--destination=", ManifestFile(target)), "--tokens", "40"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, *PlanText({.source = &worker.manifest,
                                   .destination = &target,
                                   .num_tokens = 40}));
}

TEST(KvDump, AFileNeedsNoManifestIdButARightOne) {
  LayoutManifest manifest = TwoRanks();
  const std::string id = manifest.manifest_id;
  const std::string text = Dump({"manifest", ManifestFile(manifest)}).out;
  manifest.manifest_id.clear();
  EXPECT_EQ(Dump({"manifest", ManifestFile(manifest)}).out, text);
  manifest.manifest_id = std::string(32, 'x');
  EXPECT_EQ(Dump({"manifest", ManifestFile(manifest)}).exit_code, 1);
}

TEST(KvDump, PrintsAWorkersLedgerAndPeers) {
  FakeWorker worker;
  worker.ledger.set_usable(100);
  worker.ledger.set_free(90);
  worker.ledger.set_cached(6);
  worker.ledger.set_active(3);
  worker.ledger.set_quarantined(1);
  worker.ledger.set_oldest_quarantine_ms(250);
  worker.ledger.set_open_transfers(2);
  worker.report.mutable_identity()->set_instance("d0");
  worker.report.mutable_identity()->set_generation(9);
  worker.report.mutable_identity()->set_role(v1::DECODE);
  worker.report.set_state(v1::SERVING);
  v1::PeerLink* up = worker.report.add_links();
  up->set_instance("p0");
  up->set_generation(5);
  up->set_state(v1::PeerLink::UP);
  up->set_transport("shm");
  v1::PeerLink* refused = worker.report.add_links();
  refused->set_instance("p1");
  refused->set_state(v1::PeerLink::REFUSED);
  refused->set_detail("kv layouts differ");
  const KvDumpResult result = Dump({"ledger", worker.address});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out,
            "worker d0 generation 9, decode, serving\n"
            "blocks: 100 usable = 90 free + 6 cached + 3 active + 1 "
            "quarantined\n"
            "oldest quarantine: 250 ms\n"
            "open transfers: 2\n"
            "peer p0 generation 5: up over shm\n"
            "peer p1 generation 0: refused, kv layouts differ\n");
  // One block is nowhere.
  worker.ledger.set_free(89);
  const KvDumpResult lost = Dump({"ledger", worker.address});
  EXPECT_EQ(lost.exit_code, 1);
  EXPECT_THAT(lost.out, HasSubstr("quarantined: does not add up\n"));
}

TEST(KvDump, PrintsTheLedgerOfAFile) {
  const std::string file =
      WriteFile("ledger.txt", "usable: 7 free: 5 active: 2");
  const KvDumpResult result = Dump({"ledger", file});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out,
            "blocks: 7 usable = 5 free + 0 cached + 2 active + 0 "
            "quarantined\nopen transfers: 0\n");
}

TEST(KvDump, SaysWhatIsWrong) {
  const std::string junk = WriteFile("junk.txt", "no manifest");
  const std::string manifest = ManifestFile(TwoRanks());
  struct Case {
    std::vector<std::string> args;
    int exit_code;
    std::string says;
  };
  const std::vector<Case> cases = {
      {{}, 64, "a command is required"},
      {{"dump"}, 64, "unknown command dump"},
      {{"manifest"}, 64, "needs one HOST:PORT or FILE"},
      {{"manifest", "a:1", "b:1"}, 64, "needs one HOST:PORT or FILE"},
      {{"manifest", "a:1", "--size", "1"}, 64, "unknown flag --size"},
      {{"plan", "--source", manifest}, 64, "plan needs --source and"},
      {{"plan", "--source"}, 64, "--source needs a value"},
      {{"plan", "--source", manifest, "--destination", manifest, "--tokens=x"},
       64,
       "--tokens is \"x\""},
      {{"manifest", junk}, 1, "is no LayoutManifest"},
      {{"ledger", junk}, 1, "is no LedgerResponse"},
      {{"ledger", testing::TempDir()}, 1, "Ledger"},
      {{"manifest", "127.0.0.1:1"}, 1, "127.0.0.1:1, GetManifest: "},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(absl::StrJoin(c.args, " "));
    const KvDumpResult result = Dump(c.args);
    EXPECT_EQ(result.exit_code, c.exit_code);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr(c.says));
  }
}

}  // namespace
}  // namespace sluice
