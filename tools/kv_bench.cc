// Speed of KV transfers between two processes of one host, beside what the
// machine can do at all. One JSON object a line: first the floors (copies of
// the same blocks by a bare loop), then transfers, medians over the rounds; in
// each round all take a turn, in random order.
//   kv_bench [--sizes=4096,16384,65536,1048576] [--transports=shm,ucx]
//            [--digests=off,append,offer] [--pool-mib=512] [--rounds=5]
//            [--source=TOKENS:RANKS:ORDER] [--target=TOKENS:RANKS:ORDER]
//            [--put-floor] [--exposed | --idle]
// Sizes are bytes of a block of the source, all ranks together. With --source
// or --target the two sides differ: blocks of TOKENS tokens, RANKS ranks,
// canonical or cpu_tiles. Digests of the source are off; kept since the KV was
// "written" (append, its cost apart); or read for the announcement (offer).
// Every byte of a first transfer is compared, whatever ranks hold it.
// --put-floor adds a floor: the source puts the blocks by UCX, into memory that
// UCX allocated in the decode process. --exposed instead: a prompt of 2048
// tokens offered layer by layer, and the time from the last offer to the
// verified end.
// --idle instead: how often the transfer threads of a quiet pair wake up.

#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/cpu_time.h"
#include "base/mutex.h"
#include "kvtransfer/wire/kv_wire.h"
#include "tools/kv_bench_channel.h"
#include "tools/kv_bench_floor.h"
#include "tools/kv_bench_put.h"
#include "tools/kv_bench_worker.h"

namespace sluice::kv_bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

struct Options {
  std::vector<uint64_t> sizes = {4096, 16384, 65536, 1 << 20};
  std::vector<EngineKind> kinds;
  uint64_t pool_bytes = uint64_t{512} << 20;
  int rounds = 5;
  SideShape source{.block_tokens = 0};
  SideShape target{.block_tokens = 0};
  bool exposed = false;
  bool idle = false;
  bool put_floor = false;
};

// Bytes of a block -> layers, heads and tokens as models have them.
Shape ShapeOf(uint64_t size, const Options& options) {
  Shape shape;
  shape.pool_bytes = options.pool_bytes;
  shape.head_dim = 128;
  // Grow tokens to 16, then heads to 8, then layers.
  uint32_t tokens = 8;
  uint64_t left = size / (2 * 128 * 2 * tokens);
  if (left >= 2) {
    tokens = 16;
    left /= 2;
  }
  shape.heads = static_cast<uint32_t>(std::min<uint64_t>(8, left));
  shape.layers = static_cast<uint32_t>(left / shape.heads);
  shape.source = options.source;
  shape.target = options.target;
  if (shape.source.block_tokens == 0) shape.source.block_tokens = tokens;
  if (shape.target.block_tokens == 0) {
    shape.target.block_tokens = shape.source.block_tokens;
  }
  if (shape.source.block_tokens * shape.token_bytes() != size) {
    // Other tokens a block: as many layers as make up the size.
    shape.layers = static_cast<uint32_t>(std::max<uint64_t>(
        1, size * shape.layers /
               (shape.source.block_tokens * shape.token_bytes())));
  }
  return shape;
}

// Times this process's transfer threads went to sleep so far.
uint64_t TransferThreadSleeps() {
  uint64_t sleeps = 0;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream name(task.path() / "comm");
    std::string line;
    std::getline(name, line);
    if (line != "transfer") continue;
    std::ifstream status(task.path() / "status");
    while (std::getline(status, line)) {
      absl::string_view text = line;
      uint64_t count = 0;
      if (absl::ConsumePrefix(&text, "voluntary_ctxt_switches:") &&
          absl::SimpleAtoi(text, &count)) {
        sleeps += count;
      }
    }
  }
  return sleeps;
}

void Pin(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core % static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)), &set);
  (void)sched_setaffinity(0, sizeof set, &set);
}

struct Sample {
  double seconds = 0;
  double decode_cpu = 0;
  double prefill_cpu = 0;
  uint64_t bytes = 0;
  uint64_t posts = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// The decode process: drives the source process over the channel.
class Bench {
 public:
  Bench(const Options& options, Channel* channel,
        const kvtransfer::PoolMemory& target,
        const kvtransfer::PoolMemory& source, pid_t child)
      : options_(options),
        channel_(channel),
        target_(target),
        source_(source),
        child_(child),
        receiver_([this] { ReceiveAll(); }) {}

  ~Bench() {
    channel_->Send(FrameKind::kQuit, 0, "");
    receiver_.join();
  }

  void RunSize(uint64_t size) {
    Build(ShapeOf(size, options_));
    // Round 0 warms up: pages are mapped, and the bytes are compared.
    for (int round = 0; round <= options_.rounds; ++round) {
      // In another order each round: a copy through the caches leaves them full
      // of lines that the next one has to write back.
      std::vector<std::function<void()>> turns;
      if (SamePlaces()) AddFloors(round, turns);
      for (uint32_t e = 0; e < workers_.size(); ++e) {
        turns.push_back([this, e, round] {
          const Sample sample = Transfer(e, 0).sample;
          if (round == 0) Compare();
          if (round == 0) first_seconds_[e] = sample.seconds;
          if (round > 0) samples_[e].push_back(sample);
        });
      }
      std::shuffle(turns.begin(), turns.end(), random_);
      for (const auto& turn : turns) {
        Scatter();
        turn();
      }
    }
    Report(size);
    TearDown();
  }

  void RunExposed() {
    // Keys and values of a model of 16 layers with 8 heads of 64.
    Shape shape;
    shape.pool_bytes = options_.pool_bytes;
    shape.layers = 16;
    shape.heads = 8;
    shape.head_dim = 64;
    shape.source = {64, 1, "cpu_tiles"};
    shape.target = shape.source;
    Build(shape);
    for (uint32_t e = 0; e < workers_.size(); ++e) {
      std::vector<double> exposed;
      uint64_t bytes = 0;
      for (int round = 0; round <= options_.rounds; ++round) {
        Scatter();
        num_tokens_ = std::min<uint32_t>(num_tokens_, 2048);
        source_blocks_.resize(num_tokens_ / 64);
        target_blocks_.resize(num_tokens_ / 64);
        const Run run = Transfer(e, 10'000);
        if (round > 0) exposed.push_back(run.exposed_ms);
        bytes = run.sample.bytes;
      }
      std::printf(
          "{\"row\":\"exposed\",\"transport\":\"%s\",\"digests\":\"%s\","
          "\"tokens\":%u,\"bytes\":%llu,\"exposed_ms\":%.2f,\"min\":%.2f,"
          "\"max\":%.2f}\n",
          options_.kinds[e].transport.c_str(),
          options_.kinds[e].digests.c_str(), num_tokens_,
          static_cast<unsigned long long>(bytes), Median(exposed),
          *std::min_element(exposed.begin(), exposed.end()),
          *std::max_element(exposed.begin(), exposed.end()));
      std::fflush(stdout);
    }
    TearDown();
  }

  void RunIdle() {
    constexpr int kSeconds = 5;
    Build(ShapeOf(65536, options_));
    std::this_thread::sleep_for(std::chrono::seconds(2));
    const uint64_t before = TransferThreadSleeps();
    std::this_thread::sleep_for(std::chrono::seconds(kSeconds));
    std::printf("{\"row\":\"idle\",\"engines\":%zu,\"wakeups_per_s\":%.2f}\n",
                workers_.size(),
                static_cast<double>(TransferThreadSleeps() - before) /
                    kSeconds / static_cast<double>(workers_.size()));
    TearDown();
  }

 private:
  struct Run {
    Sample sample;
    double exposed_ms = 0;
  };

  // Whether a block is the same contiguous bytes on both sides.
  bool SamePlaces() const {
    return shape_.source.ranks == 1 && shape_.target.ranks == 1 &&
           shape_.source.block_tokens == shape_.target.block_tokens &&
           shape_.source.order == shape_.target.order;
  }

  void ReceiveAll() {
    while (std::optional<Frame> frame = channel_->Receive()) {
      MutexLock lock(mu_);
      if (frame->kind == FrameKind::kControl) {
        if (frame->engine < workers_.size()) {
          workers_[frame->engine]->OnControl(frame->body);
        }
        continue;
      }
      answers_.push_back(*std::move(frame));
      answered_.NotifyAll();
    }
  }

  Frame Answer(FrameKind kind) {
    MutexLock lock(mu_);
    while (answers_.empty()) answered_.Wait(mu_);
    Frame frame = std::move(answers_.front());
    answers_.erase(answers_.begin());
    if (frame.kind != kind) Die("the source answered something else");
    return frame;
  }

  void Build(const Shape& shape) {
    shape_ = shape;
    channel_->Send(FrameKind::kLayout, 0, shape.ToText());
    Answer(FrameKind::kDone);
    std::vector<std::unique_ptr<BenchWorker>> workers;
    for (uint32_t e = 0; e < options_.kinds.size(); ++e) {
      workers.push_back(std::make_unique<BenchWorker>(
          BenchWorker::Args{.shape = &shape_,
                            .kind = options_.kinds[e],
                            .is_source = false,
                            .index = e,
                            .pool = &target_,
                            .channel = channel_}));
    }
    {
      MutexLock lock(mu_);
      workers_ = std::move(workers);
    }
    for (uint32_t e = 0; e < workers_.size(); ++e) Pair(e);
    floors_.clear();
    samples_.clear();
    first_seconds_.clear();
  }

  void Pair(uint32_t e) {
    kvtransfer::TransferEngine& engine = workers_[e]->engine();
    const kvtransfer::PeerOffer ours = engine.PrepareOffer();
    channel_->Send(FrameKind::kPair, e,
                   ToPairRequest(ours).SerializeAsString());
    v1::PairResponse response;
    if (!response.ParseFromString(Answer(FrameKind::kPaired).body)) {
      Die("bad pair response");
    }
    auto theirs = kvtransfer::FromProto(response);
    if (!theirs.ok()) Die(theirs.status().ToString());
    if (absl::Status s = engine.CheckOffer(*theirs, 0); !s.ok()) {
      Die(s.ToString());
    }
    engine.Pair(ours, *theirs);
    channel_->Send(FrameKind::kLinkUp, e, "");
    Answer(FrameKind::kDone);
    engine.OnLinkUp(theirs->manifest.worker);
    for (int i = 0; i < 10'000; ++i) {
      const auto peers = engine.Peers();
      if (!peers->empty() &&
          peers->front().state == kvtransfer::PeerState::kUp) {
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    Die("the pair did not form");
  }

  void TearDown() {
    std::vector<std::unique_ptr<BenchWorker>> workers;
    {
      MutexLock lock(mu_);
      workers = std::move(workers_);
      workers_.clear();
    }
    workers.clear();
    channel_->Send(FrameKind::kShutdown, 0, "");
    Answer(FrameKind::kDone);
  }

  // Random places of all blocks on both sides.
  void Scatter() {
    const auto scatter = [&](bool is_source) {
      std::vector<uint32_t> blocks(UsableBlocks(ManifestOf(shape_, is_source)));
      for (size_t i = 0; i < blocks.size(); ++i) {
        blocks[i] = static_cast<uint32_t>(i + 1);
      }
      std::shuffle(blocks.begin(), blocks.end(), random_);
      return blocks;
    };
    source_blocks_ = scatter(true);
    target_blocks_ = scatter(false);
    num_tokens_ = static_cast<uint32_t>(
        std::min(source_blocks_.size() * shape_.source.block_tokens,
                 target_blocks_.size() * shape_.target.block_tokens));
    const uint32_t whole =
        std::max(shape_.source.block_tokens, shape_.target.block_tokens);
    num_tokens_ = std::min(num_tokens_, 1u << 24) / whole * whole;
    source_blocks_.resize(num_tokens_ / shape_.source.block_tokens);
    target_blocks_.resize(num_tokens_ / shape_.target.block_tokens);
  }

  uint64_t BlockBytes() const {
    return shape_.source.block_tokens * shape_.token_bytes();
  }

  Blocks BlocksNow() const {
    Blocks blocks;
    for (size_t i = 0; i < source_blocks_.size(); ++i) {
      blocks.emplace_back(source_blocks_[i] * BlockBytes(),
                          target_blocks_[i] * BlockBytes());
    }
    return blocks;
  }

  void AddFloors(int round, std::vector<std::function<void()>>& turns) {
    for (const std::string& way : FloorWays()) {
      turns.push_back([this, way, round] { RunFloorOf(way, round); });
    }
    if (options_.put_floor) {
      turns.push_back([this, round] { RunPutFloor(BlocksNow(), round); });
    }
  }

  void RunFloorOf(const std::string& way, int round) {
    const Blocks blocks = BlocksNow();
    const double cpu = ProcessCpuSeconds();
    const auto start = SteadyClock::now();
    const bool done = RunFloor(
        way, {.from = source_.base(),
              .to = target_.base(),
              .blocks = &blocks,
              .block_bytes = BlockBytes(),
              .source = child_,
              .source_base = reinterpret_cast<uintptr_t>(source_.base())});
    const double seconds =
        std::chrono::duration<double>(SteadyClock::now() - start).count();
    if (!done || round == 0) return;
    floors_[way].push_back({.seconds = seconds,
                            .decode_cpu = ProcessCpuSeconds() - cpu,
                            .bytes = blocks.size() * BlockBytes(),
                            .posts = blocks.size()});
  }

  // By the source, into memory of its own: UCX writes into no other.
  void RunPutFloor(const Blocks& blocks, int round) {
    if (put_ == nullptr) {
      put_ = std::make_unique<PutFloor>(options_.pool_bytes);
      channel_->Send(FrameKind::kPutPair, 0, "");
      put_->Dial(Answer(FrameKind::kPaired).body);
      put_->AwaitUp();
      Answer(FrameKind::kDone);
    }
    channel_->Send(FrameKind::kPutBlocks, 0,
                   BlocksToBody(blocks, BlockBytes()));
    Answer(FrameKind::kDone);
    const double prefill_cpu = SourceCpu();
    const double decode_cpu = ProcessCpuSeconds();
    const auto start = SteadyClock::now();
    channel_->Send(FrameKind::kPut, 0, "");
    Answer(FrameKind::kDone);
    const double seconds =
        std::chrono::duration<double>(SteadyClock::now() - start).count();
    for (const auto& [from, to] : blocks) {
      if (round > 0) break;  // compared once a size
      if (std::memcmp(source_.base() + from, put_->base() + to, BlockBytes()) !=
          0) {
        Die("a put block differs");
      }
    }
    if (round == 0) return;
    floors_["ucx_put"].push_back(
        {.seconds = seconds,
         .decode_cpu = ProcessCpuSeconds() - decode_cpu,
         .prefill_cpu = SourceCpu() - prefill_cpu,
         .bytes = blocks.size() * BlockBytes(),
         .posts = blocks.size()});
  }

  double SourceCpu() {
    channel_->Send(FrameKind::kCpu, 0, "");
    double cpu;
    std::memcpy(&cpu, Answer(FrameKind::kCpuIs).body.data(), sizeof cpu);
    return cpu;
  }

  Run Transfer(uint32_t e, uint32_t layer_gap_us) {
    std::promise<kvtransfer::TransferResult> ended;
    SteadyClock::time_point end;
    kvtransfer::ReceiveArgs args;
    args.blocks = target_blocks_;
    args.num_tokens = num_tokens_;
    args.deadline_ms = 60000;
    args.on_ended = [&](const kvtransfer::TransferId&,
                        const kvtransfer::TransferResult& result) {
      end = SteadyClock::now();
      ended.set_value(result);
    };
    Run run;
    if (options_.kinds[e].digests == "append") {
      const double before = SourceCpu();
      channel_->Send(
          FrameKind::kAppend, e,
          SendOrder{.blocks = source_blocks_, .num_tokens = num_tokens_}
              .ToBody());
      Answer(FrameKind::kDone);
      append_cost_[e] = (SourceCpu() - before) * 1e9 /
                        static_cast<double>(num_tokens_) /
                        static_cast<double>(shape_.token_bytes());
    }
    const double prefill_cpu = SourceCpu();
    const double decode_cpu = ProcessCpuSeconds();
    const auto start = SteadyClock::now();
    const auto ticket = workers_[e]->engine().StartReceive(std::move(args));
    if (!ticket.ok()) Die(ticket.status().ToString());
    channel_->Send(FrameKind::kSend, e,
                   SendOrder{.ticket = *ticket,
                             .blocks = source_blocks_,
                             .layer_gap_us = layer_gap_us}
                       .ToBody());
    SteadyClock::time_point last_offer = start;
    if (layer_gap_us > 0) {
      Answer(FrameKind::kDone);
      last_offer = SteadyClock::now();
    }
    const kvtransfer::TransferResult result = ended.get_future().get();
    if (result.state != kvtransfer::TransferState::kCompleted) {
      Die(result.status.ToString());
    }
    run.exposed_ms =
        std::chrono::duration<double>(end - last_offer).count() * 1e3;
    run.sample = {.seconds = std::chrono::duration<double>(end - start).count(),
                  .decode_cpu = ProcessCpuSeconds() - decode_cpu,
                  .prefill_cpu = SourceCpu() - prefill_cpu,
                  .bytes = result.bytes,
                  .posts = result.copies};
    return run;
  }

  // Every byte of what was moved, by the two layouts.
  void Compare() const {
    const uint64_t different =
        CountDifferent(shape_, {source_.base(), &source_blocks_},
                       {target_.base(), &target_blocks_}, num_tokens_);
    if (different > 0) Die(absl::StrCat(different, " values differ"));
  }

  void Report(uint64_t size) {
    double floor = 0;
    double floor_cpu = 0;
    std::vector<std::string> ways = FloorWays();
    ways.push_back("ucx_put");
    for (const std::string& way : ways) {
      if (floors_[way].empty()) continue;
      const auto [rate, cpu] =
          Print(size, absl::StrCat("\"row\":\"floor\",\"way\":\"", way, "\""),
                floors_[way], 0, 0);
      if (way == "nt") {
        floor = rate;
        floor_cpu = cpu;
      }
    }
    for (uint32_t e = 0; e < options_.kinds.size(); ++e) {
      Print(size,
            absl::StrCat("\"row\":\"transfer\",\"transport\":\"",
                         options_.kinds[e].transport, "\",\"digests\":\"",
                         options_.kinds[e].digests,
                         "\",\"first_ms\":", first_seconds_[e] * 1e3,
                         ",\"append_cpu_s_per_gb\":", append_cost_[e]),
            samples_[e], floor, floor_cpu);
    }
  }

  // Median rate in GB/s and decode CPU seconds a GB.
  std::pair<double, double> Print(uint64_t size, const std::string& head,
                                  const std::vector<Sample>& samples,
                                  double floor, double floor_cpu) const {
    std::vector<double> rate, decode, prefill;
    for (const Sample& s : samples) {
      const double gb = static_cast<double>(s.bytes) / 1e9;
      rate.push_back(gb / s.seconds);
      decode.push_back(s.decode_cpu / gb);
      prefill.push_back(s.prefill_cpu / gb);
    }
    std::printf(
        "{\"size\":%llu,%s,\"gb_per_s\":%.3f,\"min\":%.3f,\"max\":%.3f,"
        "\"posts\":%llu,\"bytes\":%llu,\"decode_cpu_s_per_gb\":%.4f,"
        "\"prefill_cpu_s_per_gb\":%.4f",
        static_cast<unsigned long long>(size), head.c_str(), Median(rate),
        *std::min_element(rate.begin(), rate.end()),
        *std::max_element(rate.begin(), rate.end()),
        static_cast<unsigned long long>(samples.back().posts),
        static_cast<unsigned long long>(samples.back().bytes), Median(decode),
        Median(prefill));
    if (floor > 0) {
      std::printf(",\"share_of_floor\":%.3f,\"cpu_vs_floor\":%.3f",
                  Median(rate) / floor, Median(decode) / floor_cpu);
    }
    std::printf("}\n");
    std::fflush(stdout);
    return {Median(rate), Median(decode)};
  }

  const Options& options_;
  Channel* const channel_;
  const kvtransfer::PoolMemory& target_;
  const kvtransfer::PoolMemory& source_;
  const pid_t child_;
  std::mt19937_64 random_{5};
  Shape shape_;
  std::vector<uint32_t> source_blocks_;
  std::vector<uint32_t> target_blocks_;
  uint32_t num_tokens_ = 0;
  std::map<std::string, std::vector<Sample>> floors_;
  std::unique_ptr<PutFloor> put_;
  std::map<uint32_t, std::vector<Sample>> samples_;
  std::map<uint32_t, double> first_seconds_;
  std::map<uint32_t, double> append_cost_;
  Mutex mu_;
  CondVar answered_;
  std::vector<Frame> answers_;
  std::vector<std::unique_ptr<BenchWorker>> workers_;
  std::thread receiver_;
};

SideShape ParseSide(absl::string_view text) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  SideShape side;
  if (parts.size() != 3 || !absl::SimpleAtoi(parts[0], &side.block_tokens) ||
      !absl::SimpleAtoi(parts[1], &side.ranks) ||
      (parts[2] != "canonical" && parts[2] != "cpu_tiles")) {
    Die(absl::StrCat("want TOKENS:RANKS:ORDER, got ", text));
  }
  side.order = parts[2];
  return side;
}

Options ParseOptions(int argc, char** argv) {
  Options options;
  std::vector<std::string> transports = {"shm", "ucx"};
  std::vector<std::string> digests = {"off", "append", "offer"};
  for (int i = 1; i < argc; ++i) {
    absl::string_view arg = argv[i];
    if (absl::ConsumePrefix(&arg, "--sizes=")) {
      options.sizes.clear();
      for (const auto part : absl::StrSplit(arg, ',')) {
        uint64_t size = 0;
        if (!absl::SimpleAtoi(part, &size) || size < 4096 ||
            (size & (size - 1)) != 0) {
          Die("sizes are powers of two from 4096");
        }
        options.sizes.push_back(size);
      }
    } else if (absl::ConsumePrefix(&arg, "--transports=")) {
      transports = absl::StrSplit(arg, ',');
    } else if (absl::ConsumePrefix(&arg, "--digests=")) {
      digests = absl::StrSplit(arg, ',');
    } else if (absl::ConsumePrefix(&arg, "--pool-mib=")) {
      uint64_t mib = 0;
      if (!absl::SimpleAtoi(arg, &mib) || mib < 8) Die("bad --pool-mib");
      options.pool_bytes = mib << 20;
    } else if (absl::ConsumePrefix(&arg, "--rounds=")) {
      if (!absl::SimpleAtoi(arg, &options.rounds) || options.rounds < 1) {
        Die("bad --rounds");
      }
    } else if (absl::ConsumePrefix(&arg, "--source=")) {
      options.source = ParseSide(arg);
    } else if (absl::ConsumePrefix(&arg, "--target=")) {
      options.target = ParseSide(arg);
    } else if (arg == "--exposed") {
      options.exposed = true;
    } else if (arg == "--put-floor") {
      options.put_floor = true;
    } else if (arg == "--idle") {
      options.idle = true;
    } else {
      Die(absl::StrCat("unknown argument ", arg));
    }
  }
  for (const std::string& transport : transports) {
    if (transport != "shm" && transport != "ucx") Die("transports: shm, ucx");
    for (const std::string& digest : digests) {
      if (digest != "off" && digest != "append" && digest != "offer") {
        Die("digests: off, append, offer");
      }
      options.kinds.push_back({transport, digest});
    }
  }
  return options;
}

std::unique_ptr<kvtransfer::PoolMemory> MakePool(uint64_t bytes,
                                                 uint64_t seed) {
  auto pool = kvtransfer::PoolMemory::Create(bytes);
  if (!pool.ok()) Die(pool.status().ToString());
  std::mt19937_64 random(seed);
  for (uint64_t at = 0; at + 8 <= bytes; at += 8) {
    const uint64_t word = random();
    std::memcpy((*pool)->base() + at, &word, sizeof word);
  }
  return *std::move(pool);
}

int Main(int argc, char** argv) {
  const Options options = ParseOptions(argc, argv);
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    Die("socketpair");
  }
  // Made before the fork: both processes see both pools, for the floors.
  const auto source = MakePool(options.pool_bytes, 1);
  const auto target = MakePool(options.pool_bytes, 2);
  const pid_t child = fork();
  if (child < 0) Die("fork");
  if (child == 0) {
    close(sockets[0]);
    Pin(1);
    Channel channel(sockets[1]);
    RunSource(channel, *source, options.kinds);
    _exit(0);
  }
  close(sockets[1]);
  Pin(0);
  Channel channel(sockets[0]);
  {
    Bench bench(options, &channel, *target, *source, child);
    if (options.idle) {
      bench.RunIdle();
    } else if (options.exposed) {
      bench.RunExposed();
    } else {
      for (const uint64_t size : options.sizes) bench.RunSize(size);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sluice::kv_bench

int main(int argc, char** argv) { return sluice::kv_bench::Main(argc, argv); }
