#include "base/log.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log_fold.h"
#include "base/log_line.h"
#include "base/mutex.h"
#include "base/snapshot.h"
#include "base/thread.h"

namespace sluice {
namespace {

constexpr size_t kMaxQueuedBytes = 4 << 20;
constexpr int64_t kExitFlushMs = 1000;

struct QueuedLine {
  int64_t unix_us;
  std::string body;
  uint64_t repeat = 0;
};

// The process's log: a bounded queue and the one thread that may wait for the
// descriptor. Never destroyed, because static destructors may log.
class LogQueue {
 public:
  static LogQueue& Get() {
    static LogQueue* queue = [] {
      auto* made = new LogQueue;
      made->StartWriter();
      std::atexit([] { FlushLog(kExitFlushMs); });
      return made;
    }();
    return *queue;
  }

  void Configure(const LogOptions& options) {
    level_.store(static_cast<int>(options.level), std::memory_order_relaxed);
    options_.Publish(options);
  }

  bool Enabled(LogLevel level) const {
    return static_cast<int>(level) >= level_.load(std::memory_order_relaxed) ||
           clock_.NowMs() < debug_until_ms_.load(std::memory_order_relaxed);
  }

  void DebugFor(int64_t ms) { debug_until_ms_ = clock_.NowMs() + ms; }

  void Push(LogLevel level, absl::string_view msg,
            absl::Span<const LogField> fields) {
    const auto options = options_.Get();
    std::string body = LogBody(
        options->format, level, msg,
        {options->role, options->instance, CurrentThreadName()}, fields);
    MutexLock lock(mu_);
    if (!fold_.Passes(body, clock_.NowMicros())) return;
    if (queued_bytes_ + body.size() > kMaxQueuedBytes) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    lines_[static_cast<int>(level)].fetch_add(1, std::memory_order_relaxed);
    queued_bytes_ += body.size();
    queue_.push_back({clock_.UnixMicros(), std::move(body)});
    wake_.NotifyOne();
  }

  bool Flush(int64_t timeout_ms) {
    const int64_t deadline_ms = clock_.NowMs() + timeout_ms;
    MutexLock lock(mu_);
    const uint64_t wanted = ++flushes_wanted_;
    wake_.NotifyOne();
    while (flushes_done_ < wanted) {
      const int64_t left_ms = deadline_ms - clock_.NowMs();
      if (left_ms <= 0) return false;
      flushed_.WaitFor(mu_, std::chrono::milliseconds(left_ms));
    }
    return true;
  }

  LogCounts Counts() const {
    LogCounts counts{};
    for (int i = 0; i < kNumLogLevels; ++i) counts.lines[i] = lines_[i].load();
    counts.dropped = dropped_.load();
    return counts;
  }

 private:
  // With every signal blocked, since this may run before main() blocks those
  // that it wants to get by descriptor.
  void StartWriter() {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    StartThread("log", [this] { Write(); }).detach();
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void Write() {
    for (;;) {
      uint64_t flush = 0;
      const std::vector<QueuedLine> lines = WaitForLines(flush);
      const auto options = options_.Get();
      // One write per line, so that lines of processes that share a pipe stay
      // whole up to its atomic size.
      for (const QueuedLine& line : lines) {
        if (!WriteAll(options->fd, LogLine(options->format, line.unix_us,
                                           line.body, line.repeat))) {
          dropped_.fetch_add(1, std::memory_order_relaxed);
        }
      }
      MutexLock lock(mu_);
      for (const QueuedLine& line : lines) {
        if (line.repeat == 0) queued_bytes_ -= line.body.size();
      }
      flushes_done_ = flush;
      flushed_.NotifyAll();
    }
  }

  // `flush`: the last flush that these lines fulfil.
  std::vector<QueuedLine> WaitForLines(uint64_t& flush) {
    MutexLock lock(mu_);
    if (queue_.empty() && flushes_wanted_ == flushes_done_) {
      if (fold_.empty()) {
        wake_.Wait(mu_);
      } else {
        wake_.WaitFor(mu_, std::chrono::milliseconds(200));
      }
    }
    flush = flushes_wanted_;
    std::vector<QueuedLine> lines = std::exchange(queue_, {});
    for (auto& folded :
         fold_.TakeEnded(clock_.NowMicros(), flush != flushes_done_)) {
      lines.push_back(
          {clock_.UnixMicros(), std::move(folded.body), folded.repeat});
    }
    return lines;
  }

  const Clock& clock_ = SystemClock::Get();
  Snapshot<LogOptions> options_;
  std::atomic<int> level_{static_cast<int>(LogLevel::kInfo)};
  std::atomic<int64_t> debug_until_ms_{INT64_MIN};
  std::atomic<uint64_t> lines_[kNumLogLevels] = {};
  std::atomic<uint64_t> dropped_{0};
  Mutex mu_;
  CondVar wake_, flushed_;
  std::vector<QueuedLine> queue_ ABSL_GUARDED_BY(mu_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  LogFold fold_ ABSL_GUARDED_BY(mu_);
  uint64_t flushes_wanted_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t flushes_done_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace

void ConfigureLog(const LogOptions& options) {
  LogQueue::Get().Configure(options);
}

void Log(LogLevel level, absl::string_view msg,
         std::initializer_list<LogField> fields) {
  Log(level, msg, absl::Span<const LogField>(fields.begin(), fields.size()));
}

void Log(LogLevel level, absl::string_view msg,
         absl::Span<const LogField> fields) {
  if (LogEnabled(level)) LogQueue::Get().Push(level, msg, fields);
}

bool LogEnabled(LogLevel level) { return LogQueue::Get().Enabled(level); }

void LogDebugFor(int64_t ms) { LogQueue::Get().DebugFor(ms); }

bool FlushLog(int64_t timeout_ms) { return LogQueue::Get().Flush(timeout_ms); }

LogCounts GetLogCounts() { return LogQueue::Get().Counts(); }

}  // namespace sluice
