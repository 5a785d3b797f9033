#include "worker/server/reporter.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/thread.h"

namespace sluice::worker {

Reporter::Reporter(uint32_t beat_ms,
                   std::function<v1::WorkerReport()> make_report)
    : beat_ms_(beat_ms), make_report_(std::move(make_report)) {
  thread_ = StartThread("reporter",
                        [this](const std::stop_token& stop) { Run(stop); });
}

Reporter::~Reporter() {
  thread_.request_stop();
  wake_.NotifyAll();
}

void Reporter::Add(std::shared_ptr<ReportReader> reader) {
  {
    MutexLock lock(mu_);
    Stream stream;
    stream.reader = std::move(reader);
    stream.stored = cached_;
    streams_.push_back(std::move(stream));
  }
  Nudge();
}

void Reporter::Remove(const ReportReader* reader) {
  MutexLock lock(mu_);
  std::erase_if(streams_, [reader](const Stream& stream) {
    return stream.reader.get() == reader;
  });
}

void Reporter::Nudge() {
  {
    MutexLock lock(mu_);
    nudged_ = true;
  }
  wake_.NotifyAll();
}

void Reporter::OnCacheEvents(const PrefixCacheEvents& events) {
  MutexLock lock(mu_);
  if (events.cleared) cached_.clear();
  for (const uint64_t hash : events.stored) cached_.insert(hash);
  for (const uint64_t hash : events.removed) cached_.erase(hash);
  for (Stream& stream : streams_) {
    if (events.cleared) {
      stream.cleared = true;
      stream.stored.clear();
      stream.removed.clear();
    }
    for (const uint64_t hash : events.stored) {
      stream.removed.erase(hash);
      stream.stored.insert(hash);
    }
    for (const uint64_t hash : events.removed) {
      stream.stored.erase(hash);
      stream.removed.insert(hash);
    }
  }
}

void Reporter::Run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    {
      MutexLock lock(mu_);
      if (!nudged_) wake_.WaitFor(mu_, std::chrono::milliseconds(beat_ms_));
      nudged_ = false;
    }
    SendAll();
  }
}

void Reporter::FillEvents(Stream& stream, v1::WorkerReport& report) {
  if (!stream.cleared && stream.stored.empty() && stream.removed.empty()) {
    return;
  }
  v1::KvEvents* events = report.mutable_events();
  events->set_cleared(std::exchange(stream.cleared, false));
  events->mutable_stored()->Add(stream.stored.begin(), stream.stored.end());
  events->mutable_removed()->Add(stream.removed.begin(), stream.removed.end());
  stream.stored.clear();
  stream.removed.clear();
}

void Reporter::SendAll() {
  const v1::WorkerReport report = make_report_();
  std::vector<std::pair<std::shared_ptr<ReportReader>, v1::WorkerReport>> out;
  {
    MutexLock lock(mu_);
    for (Stream& stream : streams_) {
      v1::WorkerReport copy = report;
      copy.set_sequence(++stream.sequence);
      FillEvents(stream, copy);
      out.emplace_back(stream.reader, std::move(copy));
    }
  }
  for (auto& [reader, copy] : out) reader->OnReport(std::move(copy));
}

}  // namespace sluice::worker
