#ifndef TESTS_INTEGRATION_FAULT_POINTS_H_
#define TESTS_INTEGRATION_FAULT_POINTS_H_

#include <string>

#include "base/mutex.h"
#include "worker/transfer_hooks.h"

namespace sluice {

// What a worker of a test build is told to do to itself, in a file that it
// reads at each point of the transfer protocol it passes:
//
//   INSTANCE POINT NTH ACTION
//
// POINT: `send:KIND:before` and `send:KIND:after` (a control message, KIND as
// kvtransfer::KindName), `read:start`, `read:end`, `write:start`, `write:end`
// (an operation of the transport). The NTH passage since the line appeared
// (from 1) does it: `kill` and `stop` (SIGKILL, SIGSTOP to itself) once per
// line, `flip` (one bit of what is read or written; of `:start`) at every
// NTH one.
class FaultPoints {
 public:
  FaultPoints(std::string instance, std::string plan_path);

  // Acts when it is time; true: flip a bit. Any thread.
  bool Pass(const std::string& point);

 private:
  const std::string instance_;
  const std::string plan_path_;
  Mutex mu_;
  std::string line_ ABSL_GUARDED_BY(mu_);
  int passed_ ABSL_GUARDED_BY(mu_) = 0;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
};

// Hooks that pass the points. `points` outlives what they make.
worker::TransferHooks HooksFor(FaultPoints& points);

}  // namespace sluice

#endif  // TESTS_INTEGRATION_FAULT_POINTS_H_
