#include "kvtransfer/transfer_thread.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"

namespace sluice::kvtransfer {
namespace {

constexpr int64_t kStayAwakeUs = 50;

}  // namespace

absl::StatusOr<std::unique_ptr<TransferThread>> TransferThread::Start(
    TransferEngine* engine, sluice::Heartbeat* heartbeat) {
  auto thread = std::unique_ptr<TransferThread>(new TransferThread);
  thread->epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  thread->wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::vector<int> descriptors = engine->Descriptors();
  descriptors.push_back(thread->wake_fd_);
  for (const int fd : descriptors) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(thread->epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("transfer thread: ", std::strerror(errno)));
    }
  }
  thread->engine_ = engine;
  thread->heartbeat_ = heartbeat;
  engine->SetWake([fd = thread->wake_fd_] {
    const uint64_t one = 1;
    // A full counter wakes as well.
    if (write(fd, &one, sizeof one) < 0) SLUICE_CHECK(errno == EAGAIN);
  });
  thread->thread_ = std::thread([t = thread.get()] { t->Run(); });
  pthread_setname_np(thread->thread_.native_handle(), "transfer");
  return thread;
}

TransferThread::~TransferThread() {
  if (engine_ != nullptr) {
    engine_->Shutdown();
    thread_.join();
    engine_->SetWake(nullptr);
  }
  if (epoll_fd_ >= 0) close(epoll_fd_);
  if (wake_fd_ >= 0) close(wake_fd_);
}

void TransferThread::Run() {
  // What comes next while data flows comes within microseconds; to be woken for
  // it costs the sender as much as to send it.
  int64_t awake_until_us = 0;
  while (!engine_->drained()) {
    if (heartbeat_ != nullptr) heartbeat_->Tick();
    const bool awake = SystemClock::Get().NowMicros() < awake_until_us;
    const int64_t sleep_us = engine_->RunOnce(/*may_sleep=*/!awake);
    if (sleep_us <= 0) {
      awake_until_us = SystemClock::Get().NowMicros() + kStayAwakeUs;
      continue;
    }
    if (awake) continue;
    epoll_event events[8];
    // Rounded up: a sleep of 0 would spin through the last millisecond.
    const int timeout_ms = static_cast<int>((sleep_us + 999) / 1000);
    const int ready = epoll_wait(epoll_fd_, events, 8, timeout_ms);
    for (int i = 0; i < std::max(ready, 0); ++i) {
      uint64_t count;
      if (events[i].data.fd != wake_fd_) continue;
      if (read(wake_fd_, &count, sizeof count) < 0) {
        SLUICE_CHECK(errno == EAGAIN);
      }
    }
  }
}

}  // namespace sluice::kvtransfer
