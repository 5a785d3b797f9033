#ifndef BASE_PROCESS_METRICS_H_
#define BASE_PROCESS_METRICS_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "base/metrics.h"

namespace sluice {

// Adds what every process exports: process_* (cpu, resident and virtual
// memory, open and max descriptors, start time), sluice_threads,
// sluice_build_info{version,commit,role}, sluice_memory_limit_bytes and the
// log's own counters. `memory_limit_bytes` 0: the cgroup's limit, or the
// machine's memory when there is none. Values are read from /proc at scrape.
void RegisterProcessMetrics(absl::string_view role, MetricRegistry& registry,
                            int64_t memory_limit_bytes = 0);

// The limit meant above, in bytes.
int64_t DetectMemoryLimitBytes();

}  // namespace sluice

#endif  // BASE_PROCESS_METRICS_H_
