#ifndef ROUTER_FLOW_EJECTION_H_
#define ROUTER_FLOW_EJECTION_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "router/route/policy.h"

namespace sluice::router {

// Which workers fail so often that they are not chosen for a while. Three
// failures within ten seconds take an instance out for five seconds; then one
// request, the canary, is let through: its success brings the instance back,
// its failure takes it out for twice as long, up to a minute. A new process
// begins anew. Thread-safe; costs nothing while nothing fails.
class Ejections {
 public:
  explicit Ejections(const Clock& clock) : clock_(clock) {}

  // An attempt failed through the worker's own fault, or ended well.
  void OnFailure(const std::string& instance, uint64_t generation,
                 absl::string_view cause);
  void OnSuccess(const std::string& instance, uint64_t generation);

  // A request goes to `instance`: the canary, if it is due one.
  void OnChosen(const std::string& instance);
  // Who is out now.
  EjectedInstances Now() const;

 private:
  struct Entry {
    uint64_t generation = 0;
    std::vector<int64_t> failures_ms;  // within the window
    int64_t until_ms = 0;              // 0: not ejected
    int64_t term_ms = 0;               // of the last ejection
    int64_t canary_until_ms = 0;       // one is on its way until then
  };

  void Eject(const std::string& instance, Entry& entry, absl::string_view cause)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Clock& clock_;
  std::atomic<bool> any_{false};  // entries_ is not empty
  mutable Mutex mu_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice::router

#endif  // ROUTER_FLOW_EJECTION_H_
