#include "tests/worker/handoff/wired_worker.h"

#include <utility>

#include "base/check.h"
#include "tests/kvtransfer/testing/threaded_pair.h"

namespace sluice::worker {

WiredWorker::WiredWorker(const kvtransfer::KvWorkerSpec& spec,
                         const std::string& transport, bool sends)
    : kv(spec) {
  kvtransfer::EngineOptions options;
  options.manifest = kv.manifest;
  options.region = kv.memory->region();
  options.transports.push_back(kvtransfer::MakeRealTransport(transport));
  options.control = &links;
  options.clock = &SystemClock::Get();
  options.can_send = sends;
  options.can_receive = !sends;
  auto created = kvtransfer::TransferEngine::Create(std::move(options));
  SLUICE_CHECK(created.ok());
  engine = *std::move(created);
  links.set_transfers(engine.get());
  auto started = kvtransfer::TransferThread::Start(engine.get());
  SLUICE_CHECK(started.ok());
  thread = *std::move(started);
}

kvtransfer::KvWorkerSpec ChurnSource(uint64_t generation) {
  return {.name = "prefill",
          .generation = generation,
          .block_tokens = 16,
          .layers = 8,
          .heads = 2,
          .head_dim = 64,
          .num_blocks = 160};
}

kvtransfer::KvWorkerSpec ChurnTarget() {
  kvtransfer::KvWorkerSpec spec = ChurnSource(1);
  spec.name = "decode";
  return spec;
}

}  // namespace sluice::worker
