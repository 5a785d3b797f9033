#include "tools/kv_bench_worker.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <sstream>
#include <thread>
#include <utility>

#include "base/cpu_time.h"
#include "kvtransfer/shm/shm_transport.h"
#include "kvtransfer/ucx/ucx_transport.h"
#include "kvtransfer/wire/kv_wire.h"
#include "tools/kv_bench_put.h"

namespace sluice::kv_bench {

using kvtransfer::GroupLayout;
using kvtransfer::LayoutManifest;
using kvtransfer::TransferEngine;

namespace {

constexpr char kSourceName[] = "prefill";
constexpr char kTargetName[] = "decode";

std::unique_ptr<kvtransfer::Transport> MakeTransport(const std::string& name) {
  if (name == "shm") {
    auto transport = kvtransfer::ShmTransport::Create({});
    if (!transport.ok()) Die(transport.status().ToString());
    return *std::move(transport);
  }
  auto transport = kvtransfer::UcxTransport::Create({});
  if (!transport.ok()) Die(transport.status().ToString());
  return *std::move(transport);
}

kvtransfer::GroupManifest RankGroup(const Shape& shape, const SideShape& side,
                                    uint32_t rank) {
  const auto [first, end] =
      kvtransfer::HeadInterval(rank, side.ranks, shape.heads);
  const GroupLayout layout{
      .heads = static_cast<int>(end - first),
      .head_dim = static_cast<int>(shape.head_dim),
      .inner_order = side.order == "cpu_tiles"
                         ? kvtransfer::InnerOrder::kCpuTiles
                         : kvtransfer::InnerOrder::kCanonical,
      .layers = static_cast<int>(shape.layers),
      .block_tokens = static_cast<int>(side.block_tokens)};
  kvtransfer::GroupManifest group = kvtransfer::ManifestOf(0, layout, 0);
  group.heads_total = shape.heads;
  group.first_head = first;
  return group;
}

}  // namespace

std::string Shape::ToText() const {
  std::ostringstream out;
  out << pool_bytes << ' ' << layers << ' ' << heads << ' ' << head_dim;
  for (const SideShape* side : {&source, &target}) {
    out << ' ' << side->block_tokens << ' ' << side->ranks << ' '
        << side->order;
  }
  return out.str();
}

Shape Shape::FromText(const std::string& text) {
  std::istringstream in(text);
  Shape shape;
  in >> shape.pool_bytes >> shape.layers >> shape.heads >> shape.head_dim;
  for (SideShape* side : {&shape.source, &shape.target}) {
    in >> side->block_tokens >> side->ranks >> side->order;
  }
  return shape;
}

LayoutManifest ManifestOf(const Shape& shape, bool is_source) {
  const SideShape& side = is_source ? shape.source : shape.target;
  LayoutManifest manifest;
  manifest.worker = is_source ? kSourceName : kTargetName;
  manifest.generation = 1;
  manifest.kv_fingerprint = std::string(32, 'f');
  manifest.numerics_id = std::string("bench");
  manifest.block_tokens = side.block_tokens;
  kvtransfer::ReplicaManifest replica;
  uint64_t stride = 0;
  for (uint32_t r = 0; r < side.ranks; ++r) {
    kvtransfer::RankManifest rank;
    rank.rank = r;
    rank.num_layers = shape.layers;
    rank.groups.push_back(RankGroup(shape, side, r));
    stride += rank.groups[0].block_stride_bytes;
    replica.ranks.push_back(std::move(rank));
  }
  const uint64_t blocks = shape.pool_bytes / stride;
  uint64_t base = 0;
  for (kvtransfer::RankManifest& rank : replica.ranks) {
    rank.groups[0].num_blocks = blocks;
    rank.groups[0].base_address = base;
    base += blocks * rank.groups[0].block_stride_bytes;
  }
  manifest.replicas.push_back(std::move(replica));
  manifest.manifest_id = ComputeManifestId(manifest);
  return manifest;
}

uint32_t UsableBlocks(const LayoutManifest& manifest) {
  return static_cast<uint32_t>(
      manifest.replicas[0].ranks[0].groups[0].num_blocks - 1);
}

namespace {

// Where each side has a head of the model, in blocks counted from its pool.
struct HeadPlace {
  GroupLayout layout;
  uint64_t base = 0;
  int head = 0;  // in the rank
};

std::vector<HeadPlace> HoldersOf(const LayoutManifest& manifest,
                                 uint32_t head) {
  std::vector<HeadPlace> places;
  for (const kvtransfer::RankManifest& rank : manifest.replicas[0].ranks) {
    const kvtransfer::GroupManifest& group = rank.groups[0];
    if (head < group.first_head || head >= group.first_head + group.num_heads) {
      continue;
    }
    places.push_back({LayoutOf(group, rank, manifest.block_tokens),
                      group.base_address,
                      static_cast<int>(head - group.first_head)});
  }
  return places;
}

uint64_t CountDifferentIn(const HeadPlace& from, const SideBytes& source,
                          const HeadPlace& to, const SideBytes& target,
                          uint32_t num_tokens) {
  const auto at = [](const HeadPlace& place, const SideBytes& side, int layer,
                     int comp, uint32_t token) {
    const auto block_tokens = static_cast<uint32_t>(place.layout.block_tokens);
    return side.pool + place.base +
           place.layout.HeadBlockOffset((*side.blocks)[token / block_tokens],
                                        layer, comp, place.head);
  };
  // A token of a head in one piece on both sides.
  const auto is_row = [](const HeadPlace& place) {
    return place.layout.inner_order == kvtransfer::InnerOrder::kCanonical;
  };
  const bool rows = is_row(from) && is_row(to);
  const auto row_bytes = static_cast<size_t>(from.layout.token_bytes());
  uint64_t different = 0;
  for (int layer = 0; layer < from.layout.layers; ++layer) {
    for (int comp = 0; comp < from.layout.comps; ++comp) {
      for (uint32_t token = 0; token < num_tokens; ++token) {
        const std::byte* a = at(from, source, layer, comp, token);
        const std::byte* b = at(to, target, layer, comp, token);
        const int in_a = static_cast<int>(
            token % static_cast<uint32_t>(from.layout.block_tokens));
        const int in_b = static_cast<int>(
            token % static_cast<uint32_t>(to.layout.block_tokens));
        if (rows && std::memcmp(a + from.layout.ElementOffset(comp, in_a, 0),
                                b + to.layout.ElementOffset(comp, in_b, 0),
                                row_bytes) == 0) {
          continue;
        }
        for (int d = 0; d < from.layout.head_dim; ++d) {
          different +=
              std::memcmp(a + from.layout.ElementOffset(comp, in_a, d),
                          b + to.layout.ElementOffset(comp, in_b, d),
                          static_cast<size_t>(from.layout.element_bytes())) !=
              0;
        }
      }
    }
  }
  return different;
}

}  // namespace

uint64_t CountDifferent(const Shape& shape, const SideBytes& source,
                        const SideBytes& target, uint32_t num_tokens) {
  const LayoutManifest from = ManifestOf(shape, true);
  const LayoutManifest to = ManifestOf(shape, false);
  uint64_t different = 0;
  for (uint32_t head = 0; head < shape.heads; ++head) {
    // The source's pool is noise: of ranks that share a head each has its own,
    // and a target's copy must be one of them, whole.
    for (const HeadPlace& held : HoldersOf(to, head)) {
      uint64_t least = UINT64_MAX;
      for (const HeadPlace& read : HoldersOf(from, head)) {
        least = std::min(
            least, CountDifferentIn(read, source, held, target, num_tokens));
      }
      different += least;
    }
  }
  return different;
}

class BenchWorker::Link : public kvtransfer::ControlLink {
 public:
  Link(Channel* channel, uint32_t engine)
      : channel_(channel), engine_(engine) {}
  void Send(const std::string& peer,
            const kvtransfer::ControlMessage& message) override {
    channel_->Send(FrameKind::kControl, engine_,
                   ToProto(message).SerializeAsString());
  }

 private:
  Channel* const channel_;
  const uint32_t engine_;
};

BenchWorker::BenchWorker(const Args& args)
    : is_source_(args.is_source),
      pool_(args.pool),
      manifest_(ManifestOf(*args.shape, args.is_source)),
      link_(std::make_unique<Link>(args.channel, args.index)) {
  kvtransfer::EngineOptions options;
  options.manifest = manifest_;
  options.region = args.pool->region();
  options.transports.push_back(MakeTransport(args.kind.transport));
  options.control = link_.get();
  options.clock = &SystemClock::Get();
  options.can_send = args.is_source;
  options.can_receive = !args.is_source;
  options.digests = args.kind.digests != "off";
  if (args.is_source && args.kind.digests == "append") {
    append_digests_ = std::make_unique<kvtransfer::AppendDigests>(manifest_, 0);
    options.append_digests = append_digests_.get();
  }
  // One process may be starved for long by the other benchmarks of a machine.
  options.peer_lost_ms = 30000;
  auto engine = TransferEngine::Create(std::move(options));
  if (!engine.ok()) Die(engine.status().ToString());
  engine_ = *std::move(engine);
  auto thread = kvtransfer::TransferThread::Start(engine_.get());
  if (!thread.ok()) Die(thread.status().ToString());
  thread_ = *std::move(thread);
}

BenchWorker::~BenchWorker() { thread_.reset(); }

void BenchWorker::OnControl(const std::string& body) {
  v1::KvMessage proto;
  if (!proto.ParseFromString(body)) Die("bad control message");
  auto message = kvtransfer::FromProto(proto);
  if (!message.ok()) Die(message.status().ToString());
  engine_->OnMessage(is_source_ ? kTargetName : kSourceName,
                     *std::move(message));
}

void BenchWorker::Append(const std::vector<uint32_t>& blocks,
                         uint32_t num_tokens) {
  if (append_digests_ == nullptr) return;
  const uint32_t block_tokens = manifest_.block_tokens;
  for (const kvtransfer::RankManifest& rank : manifest_.replicas[0].ranks) {
    for (uint32_t t = 0; t < num_tokens; t += block_tokens) {
      for (uint32_t layer = 0; layer < rank.num_layers; ++layer) {
        append_digests_->Append(
            {.rank = rank.rank,
             .layer = rank.first_layer + layer,
             .block = blocks[t / block_tokens],
             .first_token = t,
             .num_tokens = std::min(block_tokens, num_tokens - t)},
            pool_->base());
      }
    }
  }
}

std::string SendOrder::ToBody() const {
  const std::string proto =
      num_tokens > 0 ? "" : ToProto(ticket).SerializeAsString();
  const uint64_t sizes[4] = {proto.size(), blocks.size(), layer_gap_us,
                             num_tokens};
  std::string body(reinterpret_cast<const char*>(sizes), sizeof sizes);
  body += proto;
  body.append(reinterpret_cast<const char*>(blocks.data()),
              blocks.size() * sizeof(uint32_t));
  return body;
}

SendOrder SendOrder::FromBody(const std::string& body) {
  uint64_t sizes[4];
  std::memcpy(sizes, body.data(), sizeof sizes);
  SendOrder order;
  order.layer_gap_us = static_cast<uint32_t>(sizes[2]);
  order.num_tokens = static_cast<uint32_t>(sizes[3]);
  order.blocks.resize(sizes[1]);
  std::memcpy(order.blocks.data(), body.data() + sizeof sizes + sizes[0],
              sizes[1] * sizeof(uint32_t));
  if (order.num_tokens > 0) return order;
  v1::Ticket proto;
  if (!proto.ParseFromArray(body.data() + sizeof sizes,
                            static_cast<int>(sizes[0]))) {
    Die("bad ticket");
  }
  auto ticket = kvtransfer::FromProto(proto);
  if (!ticket.ok()) Die(ticket.status().ToString());
  order.ticket = *std::move(ticket);
  return order;
}

namespace {

// The source process's engines of one layout.
class Source {
 public:
  Source(Channel& channel, const kvtransfer::PoolMemory& pool,
         const std::vector<EngineKind>& kinds)
      : channel_(channel), pool_(pool), kinds_(kinds) {}

  ~Source() {
    if (prefill_.joinable()) prefill_.join();
  }

  // False: quit.
  bool Handle(const Frame& frame) {
    switch (frame.kind) {
      case FrameKind::kLayout:
        Build(Shape::FromText(frame.body));
        break;
      case FrameKind::kPair:
        Pair(frame);
        break;
      case FrameKind::kLinkUp:
        workers_[frame.engine]->engine().OnLinkUp(kTargetName);
        channel_.Send(FrameKind::kDone, frame.engine, "");
        break;
      case FrameKind::kControl:
        if (!workers_.empty()) workers_[frame.engine]->OnControl(frame.body);
        break;
      case FrameKind::kAppend: {
        const SendOrder order = SendOrder::FromBody(frame.body);
        workers_[frame.engine]->Append(order.blocks, order.num_tokens);
        channel_.Send(FrameKind::kDone, frame.engine, "");
        break;
      }
      case FrameKind::kSend:
        Send(frame);
        break;
      case FrameKind::kCpu: {
        const double cpu = ProcessCpuSeconds();
        channel_.Send(
            FrameKind::kCpuIs, 0,
            std::string(reinterpret_cast<const char*>(&cpu), sizeof cpu));
        break;
      }
      case FrameKind::kPutPair:
        put_ = std::make_unique<PutFloor>(4096);
        put_->Serve();
        channel_.Send(FrameKind::kPaired, 0, put_->address());
        put_->AwaitUp();
        channel_.Send(FrameKind::kDone, 0, "");
        break;
      case FrameKind::kPutBlocks: {
        Blocks blocks;
        const uint64_t block_bytes = BlocksFromBody(frame.body, blocks);
        put_->Prepare(pool_.base(), blocks, block_bytes);
        channel_.Send(FrameKind::kDone, 0, "");
        break;
      }
      case FrameKind::kPut:
        put_->Run();
        channel_.Send(FrameKind::kDone, 0, "");
        break;
      case FrameKind::kShutdown:
        workers_.clear();
        channel_.Send(FrameKind::kDone, 0, "");
        break;
      default:
        return false;
    }
    return true;
  }

 private:
  void Build(const Shape& shape) {
    shape_ = shape;
    workers_.clear();
    for (uint32_t i = 0; i < kinds_.size(); ++i) {
      workers_.push_back(std::make_unique<BenchWorker>(
          BenchWorker::Args{.shape = &shape_,
                            .kind = kinds_[i],
                            .is_source = true,
                            .index = i,
                            .pool = &pool_,
                            .channel = &channel_}));
    }
    channel_.Send(FrameKind::kDone, 0, "");
  }

  void Pair(const Frame& frame) {
    TransferEngine& engine = workers_[frame.engine]->engine();
    v1::PairRequest request;
    if (!request.ParseFromString(frame.body)) Die("bad pair request");
    auto theirs = kvtransfer::FromProto(request);
    if (!theirs.ok()) Die(theirs.status().ToString());
    if (absl::Status s = engine.CheckOffer(*theirs, 0); !s.ok()) {
      Die(s.ToString());
    }
    const kvtransfer::PeerOffer ours = engine.PrepareOffer();
    engine.Pair(ours, *theirs);
    channel_.Send(FrameKind::kPaired, frame.engine,
                  ToPairResponse(ours).SerializeAsString());
  }

  void Send(const Frame& frame) {
    TransferEngine& engine = workers_[frame.engine]->engine();
    const SendOrder order = SendOrder::FromBody(frame.body);
    const kvtransfer::TransferId id = order.ticket.transfer_id;
    kvtransfer::SendArgs args;
    args.ticket = order.ticket;
    if (absl::Status s = engine.StartSend(std::move(args)); !s.ok()) {
      Die(s.ToString());
    }
    const uint32_t tokens = order.ticket.num_tokens;
    if (order.layer_gap_us == 0) {
      engine.OfferRectangle({.transfer_id = id,
                             .rectangle = {0, tokens, 0, shape_.layers},
                             .blocks = order.blocks});
      return;
    }
    // As a prefill does: not on the thread that hears the peer.
    if (prefill_.joinable()) prefill_.join();
    prefill_ =
        std::thread([this, &engine, order, id, tokens, e = frame.engine] {
          for (uint32_t l = 0; l < shape_.layers; ++l) {
            std::this_thread::sleep_for(
                std::chrono::microseconds(order.layer_gap_us));
            engine.OfferRectangle({.transfer_id = id,
                                   .rectangle = {0, tokens, l, l + 1},
                                   .blocks = order.blocks});
          }
          channel_.Send(FrameKind::kDone, e, "");
        });
  }

  Channel& channel_;
  const kvtransfer::PoolMemory& pool_;
  const std::vector<EngineKind>& kinds_;
  Shape shape_;
  std::vector<std::unique_ptr<BenchWorker>> workers_;
  std::thread prefill_;
  std::unique_ptr<PutFloor> put_;
};

}  // namespace

void RunSource(Channel& channel, const kvtransfer::PoolMemory& pool,
               const std::vector<EngineKind>& kinds) {
  Source source(channel, pool, kinds);
  while (const std::optional<Frame> frame = channel.Receive()) {
    if (!source.Handle(*frame)) return;
  }
}

void Die(const std::string& text) {
  std::fprintf(stderr, "kv_bench: %s\n", text.c_str());
  _exit(1);
}

}  // namespace sluice::kv_bench
