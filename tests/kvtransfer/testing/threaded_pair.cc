#include "tests/kvtransfer/testing/threaded_pair.h"

#include <chrono>
#include <future>
#include <thread>

#include "base/check.h"
#include "kvtransfer/shm/shm_transport.h"
#include "kvtransfer/ucx/ucx_put_transport.h"
#include "kvtransfer/ucx/ucx_transport.h"

namespace sluice::kvtransfer {
namespace {

constexpr auto kLimit = std::chrono::seconds(20);
constexpr uint32_t kSlots = 4;

uint64_t RegionBytes(const KvWorkerSpec& spec) {
  const LayoutManifest manifest = MakeManifest(spec);
  const GroupManifest& group = manifest.replicas[0].ranks[0].groups[0];
  return group.num_blocks * group.block_stride_bytes + spec.staging_bytes;
}

}  // namespace

std::unique_ptr<Transport> MakeRealTransport(const std::string& name) {
  if (name == "shm") {
    auto transport = ShmTransport::Create({});
    SLUICE_CHECK(transport.ok());
    return *std::move(transport);
  }
  auto transport = UcxTransport::Create({});
  if (!transport.ok()) {
    std::fprintf(stderr, "%s\n", transport.status().ToString().c_str());
  }
  SLUICE_CHECK(transport.ok());
  return *std::move(transport);
}

PutWorld::PutWorld(const KvWorkerSpec& spec) {
  auto created = UcxPutContext::Create(PutWire::kSharedMemory);
  SLUICE_CHECK(created.ok());
  context = *std::move(created);
  auto made = UcxPutMemory::Create(context, RegionBytes(spec));
  SLUICE_CHECK(made.ok());
  memory = *std::move(made);
}

std::unique_ptr<Transport> PutWorld::MakeTransport() const {
  auto transport =
      UcxPutTransport::Create({.context = context, .memory = memory.get()});
  SLUICE_CHECK(transport.ok());
  return *std::move(transport);
}

void DirectControl::Send(const std::string& peer,
                         const ControlMessage& message) {
  MutexLock lock(mu_);
  if (other_ != nullptr) other_->OnMessage(self_, message);
}

void DirectControl::Connect(TransferEngine* other) {
  MutexLock lock(mu_);
  other_ = other;
}

ThreadedWorker::ThreadedWorker(const KvWorkerSpec& spec,
                               const std::string& transport, bool sends,
                               const TransportWrap& wrap)
    : put(transport == "ucx_put" ? std::make_unique<PutWorld>(spec) : nullptr),
      kv(spec, put != nullptr ? put->memory->region() : Region{}),
      control(spec.name) {
  EngineOptions options;
  options.manifest = kv.manifest;
  options.region = kv.region;
  if (spec.staging_bytes > 0) {
    options.staging = {.offset = kv.blocks_bytes(),
                       .slot_bytes = spec.staging_bytes / kSlots,
                       .num_slots = kSlots};
  }
  std::unique_ptr<Transport> wire =
      put != nullptr ? put->MakeTransport() : MakeRealTransport(transport);
  if (wrap) wire = wrap(std::move(wire));
  options.transports.push_back(std::move(wire));
  options.control = &control;
  options.clock = &SystemClock::Get();
  options.can_send = sends;
  options.can_receive = !sends;
  auto created = TransferEngine::Create(std::move(options));
  SLUICE_CHECK(created.ok());
  engine = *std::move(created);
  auto started = TransferThread::Start(engine.get());
  SLUICE_CHECK(started.ok());
  thread = *std::move(started);
}

ThreadedPair::ThreadedPair(const KvWorkerSpec& source_spec,
                           const KvWorkerSpec& target_spec,
                           const std::string& transport,
                           const TransportWrap& wrap_source,
                           const TransportWrap& wrap_target)
    : source(source_spec, transport, true, wrap_source),
      target(target_spec, transport, false, wrap_target) {
  source.control.Connect(target.engine.get());
  target.control.Connect(source.engine.get());
}

ThreadedPair::~ThreadedPair() {
  source.thread.reset();
  target.thread.reset();
  source.control.Connect(nullptr);
  target.control.Connect(nullptr);
}

absl::Status ThreadedPair::Pair() {
  const PeerOffer dialled = target.engine->PrepareOffer();
  const PeerOffer answer = source.engine->PrepareOffer();
  if (absl::Status s = source.engine->CheckOffer(dialled, 0); !s.ok()) return s;
  source.engine->Pair(answer, dialled);
  if (absl::Status s = target.engine->CheckOffer(answer, 0); !s.ok()) return s;
  target.engine->Pair(dialled, answer);
  target.engine->OnLinkUp(source.kv.spec.name);
  source.engine->OnLinkUp(target.kv.spec.name);
  return absl::OkStatus();
}

bool ThreadedPair::WaitForState(PeerState state) {
  const auto until = std::chrono::steady_clock::now() + kLimit;
  while (std::chrono::steady_clock::now() < until) {
    const auto peers = target.engine->Peers();
    for (const PeerInfo& peer : *peers) {
      if (peer.state == state) return true;
    }
    std::this_thread::yield();
  }
  return false;
}

TransferId ThreadedPair::Start(ReceiveArgs receive, SendArgs send,
                               uint64_t sequence) {
  const uint32_t num_tokens = receive.num_tokens;
  source_blocks = Blocks(num_tokens, source.kv.spec.block_tokens, 2);
  target_blocks = Blocks(num_tokens, target.kv.spec.block_tokens, 1, 2);
  source.kv.Fill(source_blocks, num_tokens, sequence);
  receive.blocks = target_blocks;
  const absl::StatusOr<Ticket> ticket = target.engine->StartReceive(receive);
  SLUICE_CHECK(ticket.ok());
  send.ticket = *ticket;
  SLUICE_CHECK(source.engine->StartSend(send).ok());
  for (int layer = 0; layer < source.kv.spec.layers; ++layer) {
    const uint32_t l = static_cast<uint32_t>(layer);
    source.engine->OfferRectangle({.transfer_id = ticket->transfer_id,
                                   .rectangle = {0, num_tokens, l, l + 1},
                                   .blocks = source_blocks});
  }
  return ticket->transfer_id;
}

ThreadedPair::Outcome ThreadedPair::Transfer(uint32_t num_tokens, uint32_t skip,
                                             uint64_t sequence) {
  std::promise<TransferResult> received;
  std::promise<TransferResult> sent;
  std::promise<std::string> attachment;
  ReceiveArgs receive;
  receive.skip_tokens = skip;
  receive.num_tokens = num_tokens;
  receive.deadline_ms = 20000;
  receive.on_ended = [&](const TransferId&, const TransferResult& result) {
    received.set_value(result);
  };
  receive.on_attachment = [&](const TransferId&,
                              absl::StatusOr<std::string> bytes) {
    attachment.set_value(bytes.ok() ? *bytes : bytes.status().ToString());
  };
  SendArgs send;
  send.on_ended = [&](const TransferId&, const TransferResult& result) {
    sent.set_value(result);
  };
  source.engine->SendAttachment(
      Start(std::move(receive), std::move(send), sequence), "first tokens");
  Outcome outcome;
  auto received_future = received.get_future();
  auto sent_future = sent.get_future();
  outcome.received = received_future.get();
  outcome.sent = sent_future.get();
  if (outcome.received.state == TransferState::kCompleted) {
    outcome.attachment = attachment.get_future().get();
  }
  return outcome;
}

}  // namespace sluice::kvtransfer
