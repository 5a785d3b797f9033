#ifndef ROUTER_CLUSTER_LOAD_REPORT_H_
#define ROUTER_CLUSTER_LOAD_REPORT_H_

#include "absl/status/status.h"
#include "proto/worker.pb.h"
#include "router/cluster/cluster_view.h"

namespace sluice::router {

// Checks what a router relies on in a report: an instance, a generation, a
// state, a digest of 32 bytes. kInvalidArgument naming the field.
absl::Status CheckReport(const v1::WorkerReport& report);

// Copies everything a checked report says into `view`, except cache events.
// Fields that come from elsewhere (phase kSilent and kLost, link, model card)
// keep their value.
void ApplyReport(const v1::WorkerReport& report, WorkerView& view);

}  // namespace sluice::router

#endif  // ROUTER_CLUSTER_LOAD_REPORT_H_
