#ifndef WORKER_MODEL_ARCH_ARCHITECTURES_H_
#define WORKER_MODEL_ARCH_ARCHITECTURES_H_

#include "worker/model/architecture.h"

namespace sluice::worker {

const Architecture& LlamaArchitecture();
const Architecture& Qwen2Architecture();
const Architecture& Qwen3Architecture();

}  // namespace sluice::worker

#endif  // WORKER_MODEL_ARCH_ARCHITECTURES_H_
