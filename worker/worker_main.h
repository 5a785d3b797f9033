#ifndef WORKER_WORKER_MAIN_H_
#define WORKER_WORKER_MAIN_H_

#include "worker/transfer_hooks.h"

namespace sluice::worker {

// The whole program: command line, configuration, signals, serving until
// drained. Returns the exit code, or ends the process with it.
int RunWorker(int argc, char** argv, const TransferHooks& hooks);

}  // namespace sluice::worker

#endif  // WORKER_WORKER_MAIN_H_
