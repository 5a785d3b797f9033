#include "router/cluster/load_report.h"

#include "absl/strings/str_cat.h"

namespace sluice::router {
namespace {

WorkerPhase PhaseOf(v1::State state) {
  switch (state) {
    case v1::SERVING:
      return WorkerPhase::kServing;
    case v1::DRAINING:
      return WorkerPhase::kDraining;
    case v1::DRAINED:
      return WorkerPhase::kDrained;
    case v1::FAILED:
      return WorkerPhase::kFailed;
    default:
      return WorkerPhase::kStarting;
  }
}

WorkerRole RoleOf(v1::Role role) {
  switch (role) {
    case v1::PREFILL:
      return WorkerRole::kPrefill;
    case v1::DECODE:
      return WorkerRole::kDecode;
    default:
      return WorkerRole::kMixed;
  }
}

WorkerLoad LoadOf(const v1::Load& load) {
  return {.running_seqs = load.running_seqs(),
          .waiting_seqs = load.waiting_seqs(),
          .waiting_tokens = load.waiting_tokens(),
          .used_blocks = load.used_blocks(),
          .usable_blocks = load.usable_blocks(),
          .step_seconds = load.step_seconds()};
}

WorkerCredits CreditsOf(const v1::WorkerReport& report) {
  if (!report.has_credits()) return {};
  const v1::Credits& credits = report.credits();
  return {.known = true,
          .blocks = credits.admissible_blocks(),
          .prefill_tokens = credits.prefill_tokens(),
          .inbound_bytes = credits.inbound_transfer_bytes(),
          .slots = credits.sequence_slots()};
}

}  // namespace

absl::Status CheckReport(const v1::WorkerReport& report) {
  const v1::Identity& identity = report.identity();
  if (identity.instance().empty() || identity.instance().size() > 253) {
    return absl::InvalidArgumentError(absl::StrCat("identity.instance has ",
                                                   identity.instance().size(),
                                                   " bytes, must be 1..253"));
  }
  if (identity.generation() == 0) {
    return absl::InvalidArgumentError("identity.generation must not be 0");
  }
  if (!v1::Role_IsValid(identity.role())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "identity.role ", static_cast<int>(identity.role()), " is unknown"));
  }
  if (!v1::State_IsValid(report.state())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "state ", static_cast<int>(report.state()), " is unknown"));
  }
  if (report.state() == v1::SERVING && identity.model_digest().size() != 32) {
    return absl::InvalidArgumentError(
        absl::StrCat("identity.model_digest has ",
                     identity.model_digest().size(), " bytes, must be 32"));
  }
  return absl::OkStatus();
}

void ApplyReport(const v1::WorkerReport& report, WorkerView& view) {
  const v1::Identity& identity = report.identity();
  view.instance = identity.instance();
  view.generation = identity.generation();
  view.role = RoleOf(identity.role());
  view.phase = PhaseOf(report.state());
  view.model = identity.model();
  view.model_digest = identity.model_digest();
  view.numerics_id = identity.numerics_id();
  view.max_context = identity.max_context();
  view.reasons.assign(report.reasons().begin(), report.reasons().end());
  view.credits = CreditsOf(report);
  view.load = LoadOf(report.load());
  view.peers.clear();
  for (const v1::PeerLink& peer : report.links()) {
    view.peers.push_back({.instance = peer.instance(),
                          .generation = peer.generation(),
                          .up = peer.state() == v1::PeerLink::UP,
                          .transport = peer.transport()});
  }
  ++view.num_reports;
}

}  // namespace sluice::router
