#include "base/process.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/thread.h"

namespace sluice {
namespace {

constexpr int64_t kDebugMs = 60'000;

}  // namespace

// Owns both descriptors and the thread, which is joined first.
struct SignalWatcher::Loop {
  ~Loop() {
    const uint64_t one = 1;
    if (wake_fd >= 0) (void)!write(wake_fd, &one, sizeof(one));
    if (thread.joinable()) thread.join();
    if (wake_fd >= 0) close(wake_fd);
    if (signal_fd >= 0) close(signal_fd);
  }

  void Run() {
    for (;;) {
      pollfd fds[] = {{signal_fd, POLLIN, 0}, {wake_fd, POLLIN, 0}};
      if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
      if (fds[1].revents != 0) return;
      signalfd_siginfo info;
      if (read(signal_fd, &info, sizeof(info)) !=
          static_cast<ssize_t>(sizeof(info))) {
        continue;
      }
      Deliver(static_cast<int>(info.ssi_signo));
    }
  }

  void Deliver(int signal) {
    if (signal == SIGUSR1) {
      LogDebugFor(kDebugMs);
      Log(kInfo, "log level debug", {{"duration_ms", kDebugMs}});
      if (callbacks.on_debug) callbacks.on_debug();
      return;
    }
    if (signal == SIGUSR2) {
      if (callbacks.on_profile) callbacks.on_profile();
      return;
    }
    ++num_stops;
    if (callbacks.on_stop) callbacks.on_stop(signal, num_stops);
  }

  SignalCallbacks callbacks;
  int signal_fd = -1;
  int wake_fd = -1;
  int num_stops = 0;
  std::jthread thread;
};

absl::StatusOr<std::unique_ptr<SignalWatcher>> SignalWatcher::Start(
    SignalCallbacks callbacks) {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  auto loop = std::make_unique<Loop>();
  loop->callbacks = std::move(callbacks);
  loop->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  loop->wake_fd = eventfd(0, EFD_CLOEXEC);
  if (loop->signal_fd < 0 || loop->wake_fd < 0) {
    return absl::InternalError(
        absl::StrCat("no descriptor for signals: ", std::strerror(errno)));
  }
  loop->thread = StartThread("signals", [l = loop.get()] { l->Run(); });
  return std::unique_ptr<SignalWatcher>(new SignalWatcher(std::move(loop)));
}

SignalWatcher::SignalWatcher(std::unique_ptr<Loop> loop)
    : loop_(std::move(loop)) {}

SignalWatcher::~SignalWatcher() = default;

}  // namespace sluice
