#include "router/server/compute_pool.h"

#include <boost/asio/post.hpp>
#include <utility>

namespace sluice::router {

void ComputePool::Post(size_t body_bytes, std::function<void()> task) {
  boost::asio::post(body_bytes > kLargeBytes ? large_ : small_,
                    std::move(task));
}

void ComputePool::Stop() {
  for (boost::asio::thread_pool* pool : {&small_, &large_}) {
    pool->stop();
    pool->join();
  }
}

}  // namespace sluice::router
