#ifndef BASE_METRIC_CELLS_H_
#define BASE_METRIC_CELLS_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"

namespace sluice {

// The cells behind the series: wait-free except Histogram's and Gauge::Add's
// retry on the sum; any thread.

class Counter {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Gauge {
 public:
  void Set(double value) { value_.store(value, std::memory_order_relaxed); }
  void Add(double n) { value_.fetch_add(n, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

class Histogram {
 public:
  // `bounds`: ascending upper bounds; +Inf is implied.
  explicit Histogram(absl::Span<const double> bounds)
      : bounds_(bounds.begin(), bounds.end()),
        counts_(new std::atomic<uint64_t>[bounds.size() + 1]()) {}

  // O(log buckets). A NaN is not observed.
  void Observe(double value) { Observe(value, 1); }
  // As `n` observations of the same value.
  void Observe(double value, uint64_t n) {
    if (value != value) return;
    const size_t i = std::lower_bound(bounds_.begin(), bounds_.end(), value) -
                     bounds_.begin();
    counts_[i].fetch_add(n, std::memory_order_relaxed);
    sum_.fetch_add(value * static_cast<double>(n), std::memory_order_relaxed);
  }

  const std::vector<double>& bounds() const { return bounds_; }
  // Observations in bucket i alone; i == bounds().size() is the last one.
  uint64_t bucket_count(size_t i) const {
    return counts_[i].load(std::memory_order_relaxed);
  }
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  const std::vector<double> bounds_;
  const std::unique_ptr<std::atomic<uint64_t>[]> counts_;
  std::atomic<double> sum_{0};
};

// Default bucket bounds.
inline constexpr double kLatencyBuckets[] = {
    .001, .0025, .005, .01, .025, .05, .1,  .25, .5,
    1,    2.5,   5,    10,  30,   60,  120, 300};  // seconds
inline constexpr double kFastBuckets[] = {
    10e-6, 25e-6, 50e-6, .0001, .00025, .0005, .001, .0025,
    .005,  .01,   .025,  .05,   .1,     .25,   1};  // seconds
inline constexpr double kBytesBuckets[] = {
    1024.,       4096.,       16384.,       65536.,      262144.,
    1048576.,    4194304.,    16777216.,    67108864.,   268435456.,
    1073741824., 4294967296., 17179869184., 68719476736.};  // 4^5 .. 4^18
inline constexpr double kTokensBuckets[] = {1,   2,   5,   10,  20,  50,  100,
                                            200, 500, 1e3, 2e3, 5e3, 1e4, 2e4,
                                            5e4, 1e5, 2e5, 5e5, 1e6};

}  // namespace sluice

#endif  // BASE_METRIC_CELLS_H_
