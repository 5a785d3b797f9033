#ifndef BASE_SNAPSHOT_H_
#define BASE_SNAPSHOT_H_

#include <memory>
#include <utility>

#include "base/mutex.h"

namespace sluice {

// The latest published value of one writer, read by any thread. A reader keeps
// the value it got alive; Publish() never waits for readers.
template <typename T>
class Snapshot {
 public:
  explicit Snapshot(T initial = T())
      : value_(std::make_shared<const T>(std::move(initial))) {}

  void Publish(T value) {
    auto next = std::make_shared<const T>(std::move(value));
    MutexLock lock(mu_);
    value_.swap(next);
  }

  std::shared_ptr<const T> Get() const {
    MutexLock lock(mu_);
    return value_;
  }

 private:
  mutable Mutex mu_;
  std::shared_ptr<const T> value_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice

#endif  // BASE_SNAPSHOT_H_
