#ifndef WORKER_SERVER_REPORTER_H_
#define WORKER_SERVER_REPORTER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "base/mutex.h"
#include "proto/worker.pb.h"
#include "worker/engine/engine.h"

namespace sluice::worker {

// One router's report stream. Called without locks held.
class ReportReader {
 public:
  virtual ~ReportReader() = default;
  virtual void OnReport(v1::WorkerReport report) = 0;
};

// Sends every reader a report each beat and at once when Nudge()d. The prefix
// cache's content goes along as events: the first report of a stream holds a
// snapshot, later ones the changes. A thread of its own; any thread may call.
class Reporter {
 public:
  // `make_report` fills everything but sequence and events.
  Reporter(uint32_t beat_ms, std::function<v1::WorkerReport()> make_report);
  ~Reporter();

  void Add(std::shared_ptr<ReportReader> reader);
  void Remove(const ReportReader* reader);
  void Nudge();
  // On the engine thread.
  void OnCacheEvents(const PrefixCacheEvents& events);

 private:
  struct Stream {
    std::shared_ptr<ReportReader> reader;
    uint64_t sequence = 0;
    // Changes not sent yet; a hash is in one of the sets at most.
    bool cleared = true;
    absl::flat_hash_set<uint64_t> stored;
    absl::flat_hash_set<uint64_t> removed;
  };

  void Run(const std::stop_token& stop);
  void SendAll();
  static void FillEvents(Stream& stream, v1::WorkerReport& report);

  const uint32_t beat_ms_;
  const std::function<v1::WorkerReport()> make_report_;
  Mutex mu_;
  CondVar wake_;
  bool nudged_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<Stream> streams_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_set<uint64_t> cached_ ABSL_GUARDED_BY(mu_);
  std::jthread thread_;
};

}  // namespace sluice::worker

#endif  // WORKER_SERVER_REPORTER_H_
