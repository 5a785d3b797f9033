#include "tests/kvtransfer/testing/loopback_pair.h"

#include <utility>

#include "base/check.h"

namespace sluice::kvtransfer {
namespace {

KvWorkerSpec WithStaging(KvWorkerSpec spec, uint64_t bytes) {
  spec.staging_bytes = bytes;
  return spec;
}

}  // namespace

LoopbackPair::LoopbackPair(const LoopbackPairOptions& options)
    : fabric(&clock, options.seed),
      source(options.source),
      target(WithStaging(options.target,
                         options.staging_slots * options.slot_bytes)),
      options_(options),
      owners_(options.target.num_blocks, 0) {
  fabric.SetPutFence(options.put_fence, options.close_ms);
  fabric.SetOwner([this](const std::string& worker, uint64_t offset) {
    if (worker != target.spec.name || offset >= target.blocks_bytes()) {
      return uint64_t{0};
    }
    return owners_[offset /
                   static_cast<uint64_t>(target.layout().block_stride_bytes())];
  });
  if (options.append_digests) {
    append_digests = std::make_unique<AppendDigests>(source.manifest, 0);
    target_digests = std::make_unique<AppendDigests>(target.manifest, 0);
  }
  source_engine = MakeEngine(source, options, true);
  target_engine = MakeEngine(target, options, false);
  fabric.Attach(source.spec.name, source_engine.get());
  fabric.Attach(target.spec.name, target_engine.get());
  if (options.pair) {
    SLUICE_CHECK(fabric.Pair(target.spec.name, source.spec.name).ok());
    Settle();
  }
}

LoopbackPair::~LoopbackPair() {
  fabric.SetJudge(nullptr);  // what it refers to may be gone already
  source_engine->Shutdown();
  target_engine->Shutdown();
  for (int i = 0; i < 3000; ++i) {
    Settle();
    if (source_engine->drained() && target_engine->drained()) {
      SLUICE_CHECK(fabric.stray_puts() == 0);
      BuryKilled();
      return;
    }
    clock.AdvanceMs(5);
  }
  SLUICE_CHECK(false && "engines did not drain");
}

std::unique_ptr<TransferEngine> LoopbackPair::MakeEngine(
    const KvWorker& worker, const LoopbackPairOptions& options, bool sends) {
  EngineOptions engine;
  engine.manifest = worker.manifest;
  engine.region = worker.memory->region();
  engine.transports.push_back(
      fabric.MakeTransport(worker.spec.name, options.mode));
  engine.control = fabric.MakeControl(worker.spec.name);
  engine.clock = &clock;
  engine.can_send = sends;
  engine.append_digests = sends ? append_digests.get() : target_digests.get();
  engine.can_receive = !sends;
  engine.observer = sends ? options.source_observer : options.target_observer;
  engine.stream_message_bytes = options.stream_message_bytes;
  engine.stream_window_bytes = 4 * options.stream_message_bytes;
  if (!sends) {
    engine.staging = {.offset = worker.blocks_bytes(),
                      .slot_bytes = options.slot_bytes,
                      .num_slots = options.staging_slots};
  }
  auto created = TransferEngine::Create(std::move(engine));
  SLUICE_CHECK(created.ok());
  return *std::move(created);
}

// A killed engine runs no more; here it is only made fit for destruction.
void LoopbackPair::BuryKilled() {
  for (const auto& engine : killed_) {
    engine->Shutdown();
    while (!engine->drained()) {
      engine->RunOnce();
      clock.AdvanceMs(5);
    }
  }
}

void LoopbackPair::RestartSource() {
  fabric.Kill(source.spec.name);
  killed_.push_back(std::move(source_engine));
  source.manifest.generation = ++source.spec.generation;
  source.manifest.manifest_id = ComputeManifestId(source.manifest);
  source_engine = MakeEngine(source, options_, true);
  fabric.Attach(source.spec.name, source_engine.get());
}

void LoopbackPair::Settle() {
  int quiet = 0;
  while (quiet < 2) {
    bool moved = fabric.Deliver();
    moved = source_engine->RunOnce() == 0 || moved;
    moved = target_engine->RunOnce() == 0 || moved;
    quiet = moved ? 0 : quiet + 1;
  }
  source_engine->CheckInvariants();
  target_engine->CheckInvariants();
}

void LoopbackPair::Run(int64_t ms) {
  for (int64_t t = 0; t < ms; t += 5) {
    clock.AdvanceMs(5);
    Settle();
  }
}

Ticket LoopbackPair::StartReceive(const Args& args) {
  target_blocks =
      Blocks(args.num_tokens, target.spec.block_tokens, args.first_block, 2);
  SLUICE_CHECK(CanHandOut(args));
  const std::vector<uint32_t> needed = NeededBlocks(args);
  ChangeOwner(needed);
  source_blocks = Blocks(args.num_tokens, source.spec.block_tokens, 2);
  source.Fill(source_blocks, args.num_tokens, args.sequence);
  ReceiveArgs receive;
  receive.blocks = target_blocks;
  receive.skip_tokens = args.skip;
  receive.num_tokens = args.num_tokens;
  receive.deadline_ms = args.deadline_ms;
  receive.expected_source = source.spec.name;
  receive.on_ended = [this, needed](const TransferId&,
                                    const TransferResult& result) {
    received.ends.push_back(result);
    if (result.quarantined) {
      quarantined.insert(needed.begin(), needed.end());
    } else if (result.state != TransferState::kCompleted) {
      ChangeOwner(needed);
    }
  };
  receive.on_released = [this, needed](const TransferId&) {
    ++received.released;
    for (const uint32_t block : needed) quarantined.erase(block);
    ChangeOwner(needed);
  };
  receive.on_attachment = [this](const TransferId&,
                                 absl::StatusOr<std::string> bytes) {
    received.attachments.push_back(std::move(bytes));
  };
  absl::StatusOr<Ticket> ticket = target_engine->StartReceive(receive);
  SLUICE_CHECK(ticket.ok());
  return *ticket;
}

void LoopbackPair::StartSend(const Ticket& ticket) {
  SendArgs send;
  send.ticket = ticket;
  send.on_ended = [this](const TransferId&, const TransferResult& result) {
    sent.ends.push_back(result);
  };
  SLUICE_CHECK(source_engine->StartSend(send).ok());
}

void LoopbackPair::Offer(const Ticket& ticket, uint32_t t1, uint32_t l0,
                         uint32_t l1) {
  const uint32_t count =
      (t1 + source.spec.block_tokens - 1) / source.spec.block_tokens;
  source_engine->OfferRectangle(
      {.transfer_id = ticket.transfer_id,
       .rectangle = {0, t1, l0, l1},
       .blocks = {source_blocks.begin(), source_blocks.begin() + count}});
}

void LoopbackPair::OfferAll(const Ticket& ticket) {
  Offer(ticket, ticket.num_tokens, 0,
        static_cast<uint32_t>(source.spec.layers));
}

std::vector<uint32_t> LoopbackPair::NeededBlocks(const Args& args) const {
  std::vector<uint32_t> blocks =
      Blocks(args.num_tokens, target.spec.block_tokens, args.first_block, 2);
  blocks.erase(blocks.begin(),
               blocks.begin() + args.skip / target.spec.block_tokens);
  return blocks;
}

void LoopbackPair::ChangeOwner(const std::vector<uint32_t>& blocks) {
  for (const uint32_t block : blocks) ++owners_[block];
}

bool LoopbackPair::CanHandOut(const Args& args) const {
  for (const uint32_t block : NeededBlocks(args)) {
    if (quarantined.contains(block)) return false;
  }
  return true;
}

bool LoopbackPair::TargetHolds(const Args& args) const {
  return target.Holds(target_blocks, args.skip, args.num_tokens, args.sequence);
}

}  // namespace sluice::kvtransfer
