#ifndef TESTS_KVTRANSFER_TESTING_PUT_END_H_
#define TESTS_KVTRANSFER_TESTING_PUT_END_H_

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "kvtransfer/ucx/ucx_put_transport.h"

namespace sluice::kvtransfer {

// What a wire said.
struct PutEvents : public TransportEvents {
  void OnLinkUp(LinkId) override { ++up; }
  void OnLinkDown(LinkId, const absl::Status& status) override {
    down.push_back(status);
  }
  void OnData(LinkId, const DataHeader&, absl::Span<const std::byte>) override {
  }
  void OnFenced(LinkId link, Fence fence) override {
    fences.emplace_back(link, fence);
  }
  int up = 0;
  std::vector<absl::Status> down;
  std::vector<std::pair<LinkId, Fence>> fences;
};

inline constexpr uint64_t kRegionBytes = 1 << 20;

// One end of a wire over shared memory, and its region. Progressed by the test.
struct PutEnd {
  explicit PutEnd(std::shared_ptr<UcxPutContext> c,
                  const Clock* clock = &SystemClock::Get())
      : context(std::move(c)) {
    memory = *UcxPutMemory::Create(context, kRegionBytes);
    std::memset(memory->base(), 0, kRegionBytes);
    wire = *UcxPutTransport::Create(
        {.context = context, .memory = memory.get(), .clock = clock});
    SLUICE_CHECK(wire->Register(memory->region()).ok());
  }
  std::shared_ptr<UcxPutContext> context;
  std::unique_ptr<UcxPutMemory> memory;
  std::unique_ptr<UcxPutTransport> wire;
  PutEvents events;
};

inline std::shared_ptr<UcxPutContext> SharedMemory() {
  return *UcxPutContext::Create(PutWire::kSharedMemory);
}

inline std::string SourceToken() { return std::string(32, 's'); }
inline std::string TargetToken() { return std::string(32, 't'); }

inline LinkArgs Serving() {
  return {.peer = "target",
          .own_token = SourceToken(),
          .peer_token = TargetToken()};
}

inline LinkArgs Dialling(const std::string& address) {
  return {.peer = "source",
          .dial = true,
          .address = address,
          .own_token = TargetToken(),
          .peer_token = SourceToken()};
}

}  // namespace sluice::kvtransfer

#endif  // TESTS_KVTRANSFER_TESTING_PUT_END_H_
