#ifndef WORKER_ENGINE_EXECUTOR_H_
#define WORKER_ENGINE_EXECUTOR_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "worker/engine/step_plan.h"

namespace sluice::worker {

// Runs steps on the ranks of this worker, in the order launched. Called on the
// engine thread.
class Executor {
 public:
  virtual ~Executor() = default;

  // Hands the plan to the rank threads and returns at once. At most two steps
  // may be launched and not yet waited for.
  virtual void Launch(std::shared_ptr<const StepPlan> plan) = 0;

  // Blocks until the oldest launched step is done and fills `result`, whose
  // memory is used for a later step. An error fails every row of the step:
  // kResourceExhausted when memory for it could not be had, kInternal for
  // anything else. The executor stays usable.
  virtual absl::Status Wait(StepResult* result) = 0;
};

// Told by the rank thread how far a running step is, so that KV can leave
// layer by layer. Must not block.
class LayerObserver {
 public:
  virtual ~LayerObserver() = default;
  // K and V of layers [0, layers_done) of step `step` are final in the pool.
  virtual void OnLayersDone(uint64_t step, uint32_t layers_done) = 0;
};

}  // namespace sluice::worker

#endif  // WORKER_ENGINE_EXECUTOR_H_
