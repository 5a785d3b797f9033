#ifndef BASE_SNAPSHOT_H_
#define BASE_SNAPSHOT_H_

#include <memory>
#include <utility>

#include "base/mutex.h"

namespace sluice {

// A published value, kept alive by this object. Only an object with a name
// gives access: `for (x : *snapshot.Get())` would walk a value that nobody
// holds any more, and does not compile.
template <typename T>
class SnapshotRef {
 public:
  SnapshotRef() = default;
  template <typename U>
  SnapshotRef(std::shared_ptr<U> value)  // NOLINT: it is one
      : value_(std::move(value)) {}

  const T& operator*() const& { return *value_; }
  const T* operator->() const& { return value_.get(); }
  const T& operator*() const&& = delete;
  const T* operator->() const&& = delete;
  void reset() { value_ = nullptr; }
  explicit operator bool() const { return value_ != nullptr; }

 private:
  std::shared_ptr<const T> value_;
};

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

  SnapshotRef<T> Get() const {
    MutexLock lock(mu_);
    return value_;
  }

 private:
  mutable Mutex mu_;
  std::shared_ptr<const T> value_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sluice

#endif  // BASE_SNAPSHOT_H_
