#ifndef BASE_PROCESS_H_
#define BASE_PROCESS_H_

#include <functional>
#include <memory>

#include "absl/status/statusor.h"

namespace sluice {

struct SignalCallbacks {
  // SIGTERM or SIGINT, the nth of them, from 1: 1 starts a drain.
  std::function<void(int signal, int nth)> on_stop;
  // SIGUSR1, after the log has been set to debug for 60 s; may be empty.
  std::function<void()> on_debug;
  // SIGUSR2; may be empty.
  std::function<void()> on_profile;
};

// Turns signals into calls on a thread of its own ("signals"). Start it first
// in main(): it blocks SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 in the calling
// thread, and only threads made later inherit that; SIGPIPE becomes ignored.
// One at a time per process. The destructor stops the thread; the signals stay
// blocked.
class SignalWatcher {
 public:
  // INTERNAL when the kernel refuses a descriptor.
  static absl::StatusOr<std::unique_ptr<SignalWatcher>> Start(
      SignalCallbacks callbacks);
  ~SignalWatcher();

 private:
  struct Loop;
  explicit SignalWatcher(std::unique_ptr<Loop> loop);

  const std::unique_ptr<Loop> loop_;
};

}  // namespace sluice

#endif  // BASE_PROCESS_H_
