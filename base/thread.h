#ifndef BASE_THREAD_H_
#define BASE_THREAD_H_

#include <pthread.h>

#include <cstring>
#include <string>
#include <thread>
#include <utility>

namespace sluice {

// The calling thread's name, at most 15 bytes, as the kernel shows it.
inline std::string CurrentThreadName() {
  char name[16] = "";
  pthread_getname_np(pthread_self(), name, sizeof(name));
  return name;
}

// Names the calling thread; longer names are cut to 15 bytes.
inline void NameCurrentThread(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

// A thread that runs `body()` or `body(std::stop_token)` under `name`. Joined
// by its destructor, after a stop request.
template <typename Body>
std::jthread StartThread(std::string name, Body body) {
  return std::jthread([name = std::move(name),
                       body = std::move(body)](std::stop_token stop) mutable {
    NameCurrentThread(name);
    if constexpr (std::is_invocable_v<Body&, std::stop_token>) {
      body(std::move(stop));
    } else {
      body();
    }
  });
}

}  // namespace sluice

#endif  // BASE_THREAD_H_
