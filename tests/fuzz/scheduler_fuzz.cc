// Any order of submissions, steps, cancels, deadlines and hand-over replies,
// over small pools. SchedulerRig checks every invariant and every sink's order
// after each operation; at the end everything must be free.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "tests/worker/engine/scheduler_rig.h"

namespace sluice::worker {
namespace {

class World {
 public:
  explicit World(uint8_t shape)
      : rig_({.usable_blocks = 2u + shape % 16,
              .max_batch_seqs = 1u + shape / 16 % 4,
              .max_batch_tokens = 12u + shape / 64 * 8,
              .max_waiting_seqs = 12,
              .aging_ms = 100,
              .eos_in = 12}) {}

  void Submit(uint8_t a, uint8_t b) {
    Request request;
    request.prompt = Tokens(1 + a % 40, b % 3);
    request.sampling.max_tokens = 1 + b / 4 % 12;
    request.sampling.n = b % 5 == 0 ? 1 + a % 3 : 1;
    request.sampling.seed = a % 2;
    request.sampling.prompt_logprobs = b % 11 == 0 ? 0 : -1;
    request.priority = a % 3;
    request.phase = static_cast<RequestPhase>(b % 3);
    if (b % 7 == 0) request.deadline_us = rig_.now_us + 1000 * (a + 1);
    if (b % 13 == 0) request.cache_salt = "none";
    keys_.push_back(rig_.Submit(std::move(request)));
  }
  void Cancel(uint8_t which) {
    if (!keys_.empty()) rig_.Cancel(keys_[which % keys_.size()]);
  }
  void Launch() {
    if (launched_.size() == 2) return Retire(false);
    const SchedulePlan plan = rig_.Plan();
    if (plan.empty()) return;
    CommittedStep step = rig_.Commit(plan);
    if (!step.plan->rows.empty()) launched_.push_back(step.plan);
  }
  void Retire(bool fail) {
    if (launched_.empty()) return;
    const std::shared_ptr<const StepPlan> plan = launched_.front();
    launched_.erase(launched_.begin());
    if (fail) {
      rig_.model.Run(*plan);
      rig_.Fail(*plan, absl::InternalError("fuzzed"));
    } else {
      rig_.Retire(*plan);
    }
  }
  void Handover(uint8_t how) {
    if (how % 2 == 1) {
      for (RequestKey key : std::exchange(rig_.quarantined, {})) {
        rig_.scheduler->RemoteReleased(key);
        rig_.Settle();
      }
    }
    for (RequestKey key : std::exchange(rig_.withdrawn, {})) {
      rig_.reservations.erase(key);
      rig_.scheduler->RemoteFailed(key, absl::CancelledError(), how % 2 == 0,
                                   rig_.now_us);
      rig_.Settle();
    }
    if (how % 4 == 0 && !rig_.reservations.empty()) {
      const RequestKey key = rig_.reservations.begin()->first;
      rig_.reservations.erase(key);
      if (how % 16 < 8) {
        rig_.scheduler->RemoteFailed(key, absl::DataLossError("bad"),
                                     how % 8 == 0, rig_.now_us);
      } else {
        rig_.scheduler->RemoteQuarantined(key, absl::DataLossError("bad"),
                                          how % 8 == 0, rig_.now_us);
        rig_.quarantined.push_back(key);
      }
      rig_.Settle();
    }
    rig_.CompleteReservations();
    Release();
  }
  void Early(uint8_t which) {
    if (keys_.empty()) return;
    rig_.scheduler->ReleaseHeld(keys_[which % keys_.size()]);
    rig_.Settle();
  }
  void Tick(uint8_t ms) {
    rig_.now_us += 1000 * ms;
    rig_.scheduler->ExpireDeadlines(rig_.now_us);
    rig_.Settle();
  }
  void Finish() {
    for (int turn = 0; turn < 20000; ++turn) {
      while (!launched_.empty()) Retire(false);
      const bool stepped = rig_.Step();
      Handover(1);
      if (!stepped && rig_.scheduler->Counts(rig_.now_us).live_requests == 0) {
        break;
      }
    }
    Handover(1);
    SLUICE_CHECK(rig_.scheduler->blocks().num_active() == 0);
    SLUICE_CHECK(rig_.scheduler->blocks().num_quarantined() == 0);
    for (RequestKey key : keys_) {
      SLUICE_CHECK(rig_.streams[key].status.has_value());
    }
  }

 private:
  void Release() {
    for (const auto& [key, first] : std::exchange(rig_.first_tokens, {})) {
      rig_.scheduler->ReleaseHeld(key);
      rig_.Settle();
    }
    for (const auto& [key, cause] : std::exchange(rig_.prefill_failed, {})) {
      rig_.scheduler->ReleaseHeld(key);
      rig_.Settle();
    }
  }

  SchedulerRig rig_;
  std::vector<RequestKey> keys_;
  std::vector<std::shared_ptr<const StepPlan>> launched_;
};

void Fuzz(const uint8_t* data, size_t size) {
  // The checks are linear in all that ever lived: long inputs teach no more.
  if (size < 4 || size > 600) return;
  World world(data[0]);
  for (size_t i = 1; i + 2 < size; i += 3) {
    const uint8_t a = data[i + 1];
    const uint8_t b = data[i + 2];
    switch (data[i] % 10) {
      case 0:
      case 1:
        world.Submit(a, b);
        break;
      case 2:
        world.Cancel(a);
        break;
      case 3:
      case 4:
      case 5:
        world.Launch();
        break;
      case 6:
      case 7:
        world.Retire(a % 32 == 0);
        break;
      case 8:
        world.Handover(a);
        break;
      case 9:
        if (b % 4 == 0) {
          world.Early(a);
        } else {
          world.Tick(a);
        }
        break;
    }
  }
  world.Finish();
}

}  // namespace
}  // namespace sluice::worker

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::worker::Fuzz(data, size);
  return 0;
}
