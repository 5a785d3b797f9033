#ifndef WORKER_TRANSFER_HOOKS_H_
#define WORKER_TRANSFER_HOOKS_H_

#include <functional>
#include <memory>

#include "kvtransfer/transfer_engine.h"
#include "kvtransfer/transport.h"

namespace sluice::worker {

// What goes between a worker's transfer engine and its wires. The product has
// nothing there; test builds of the worker make it fail at exact points.
struct TransferHooks {
  std::function<std::unique_ptr<kvtransfer::Transport>(
      std::unique_ptr<kvtransfer::Transport>)>
      wrap_transport;  // may be empty
  // The result refers to its argument, which outlives it. May be empty.
  std::function<std::unique_ptr<kvtransfer::ControlLink>(
      kvtransfer::ControlLink&)>
      wrap_control;
};

}  // namespace sluice::worker

#endif  // WORKER_TRANSFER_HOOKS_H_
