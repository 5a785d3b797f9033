#ifndef ROUTER_SERVER_COMPUTE_POOL_H_
#define ROUTER_SERVER_COMPUTE_POOL_H_

#include <boost/asio/thread_pool.hpp>
#include <cstddef>
#include <functional>

namespace sluice::router {

// Threads for what takes long with a large body: unpacking, parsing, templates
// and tokenising. Small bodies have threads of their own, so that none waits
// behind a large one. Thread-safe.
class ComputePool {
 public:
  // A body over it is large.
  static constexpr size_t kLargeBytes = 256 << 10;

  ComputePool(size_t small_threads, size_t large_threads)
      : small_(small_threads), large_(large_threads) {}
  ~ComputePool() { Stop(); }

  // Runs `task`, which concerns a body of `body_bytes`, soon.
  void Post(size_t body_bytes, std::function<void()> task);

  // Drops what has not begun and waits for what has. Idempotent; one thread.
  void Stop();

 private:
  boost::asio::thread_pool small_;
  boost::asio::thread_pool large_;
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_COMPUTE_POOL_H_
