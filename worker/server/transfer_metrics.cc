#include "worker/server/transfer_metrics.h"

#include <algorithm>
#include <array>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace sluice::worker {
namespace {

using kvtransfer::PlanKind;
using kvtransfer::TransferDirection;
using kvtransfer::TransferDirectionName;

std::string CodeName(absl::StatusCode code) {
  return absl::AsciiStrToLower(absl::StatusCodeToString(code));
}

double Seconds(int64_t micros) { return 1e-6 * static_cast<double>(micros); }

const char* PlanKindName(PlanKind kind) {
  switch (kind) {
    case PlanKind::kSame:
      return "same";
    case PlanKind::kReshard:
      return "reshard";
    case PlanKind::kConvert:
      return "convert";
  }
  return "unknown";
}

}  // namespace

TransferMetrics::TransferMetrics(
    MetricRegistry& registry, const std::vector<absl::string_view>& transports)
    : transfers_(registry.AddCounterFamily(
          "sluice_kv_transfers_total", "KV transfers by how they ended.",
          {"direction", "transport", "state", "code"})),
      bytes_(registry.AddCounterFamily("sluice_kv_transfer_bytes_total",
                                       "KV bytes moved.",
                                       {"direction", "transport"})),
      copies_(registry.AddCounterFamily("sluice_kv_transfer_copies_total",
                                        "Copies posted, after merging.",
                                        {"transport"})),
      stale_(registry.AddCounterFamily("sluice_kv_stale_messages_total",
                                       "Messages of an older generation.",
                                       {"kind"})),
      late_(registry.AddCounterFamily("sluice_kv_late_messages_total",
                                      "Messages after a terminal state.",
                                      {"kind"})),
      digests_(registry.AddCounterFamily("sluice_kv_digest_failures_total",
                                         "Spans whose digest was wrong.",
                                         {"peer"})),
      lost_(registry.AddCounterFamily("sluice_kv_peer_lost_total",
                                      "Peers declared lost.", {"peer"})),
      refusals_(registry.AddCounterFamily("sluice_kv_pair_refusals_total",
                                          "Offers of peers refused.",
                                          {"reason"})),
      inflight_(registry.AddGaugeFamily("sluice_kv_inflight_transfers",
                                        "Transfers that have not ended.",
                                        {"direction"})),
      inflight_bytes_(registry.AddGaugeFamily("sluice_kv_inflight_bytes",
                                              "KV bytes these are to move.",
                                              {"direction"})),
      quarantined_(registry.AddGauge("sluice_kv_quarantined_blocks",
                                     "Blocks no one may use yet.")),
      peers_(registry.AddGaugeFamily(
          "sluice_kv_peers", "Peers by the state of the pair.", {"state"})),
      seconds_(registry.AddHistogramFamily(
          "sluice_kv_transfer_seconds",
          "Time of completed transfers; claim is until they could move data, "
          "copy the rest.",
          kLatencyBuckets, {"transport", "stage"})),
      exposed_(registry.AddHistogram(
          "sluice_kv_transfer_exposed_seconds",
          "How long completed sends went on after all KV was computed.",
          kLatencyBuckets)),
      size_bytes_(registry.AddHistogramFamily(
          "sluice_kv_transfer_size_bytes", "KV bytes of completed transfers.",
          kBytesBuckets, {"direction", "transport"})),
      copies_each_(registry.AddHistogramFamily(
          "sluice_kv_copies_per_transfer",
          "Copies of completed transfers, after merging.", kTokensBuckets,
          {"transport"})),
      rate_(registry.AddHistogramFamily(
          "sluice_kv_transfer_bytes_per_second",
          "KV bytes of completed transfers over their copy time.",
          kBytesBuckets, {"transport"})),
      pair_(registry.AddHistogram(
          "sluice_kv_pair_seconds",
          "From the exchange of offers until a pair could carry transfers.",
          kLatencyBuckets)),
      quarantine_(registry.AddHistogramFamily(
          "sluice_kv_quarantine_seconds",
          "From the end of a put transfer until its blocks could be used.",
          kLatencyBuckets, {"fence"})),
      plan_(registry.AddHistogramFamily("sluice_kv_plan_seconds",
                                        "Planning the streams of a transfer.",
                                        kFastBuckets, {"kind"})) {
  inflight_.CreateAll({{"send", "receive"}});
  inflight_bytes_.CreateAll({{"send", "receive"}});
  peers_.CreateAll({{"pairing", "up", "suspect", "refused"}});
  refusals_.CreateAll(
      {{"numerics", "fingerprint", "layout", "generation", "version"}});
  quarantine_.CreateAll({{"stopped", "close", "deregistered", "death"}});
  plan_.CreateAll({{"same", "reshard", "convert"}});
  bytes_.CreateAll({{"send", "receive"}, transports});
  copies_.CreateAll({transports});
  seconds_.CreateAll({transports, {"claim", "copy", "total"}});
  size_bytes_.CreateAll({{"send", "receive"}, transports});
  copies_each_.CreateAll({transports});
  rate_.CreateAll({transports});
}

void TransferMetrics::OnTransferEnded(
    TransferDirection direction, const kvtransfer::TransferResult& result) {
  if (result.state != kvtransfer::TransferState::kCompleted) return;
  const absl::string_view transport = result.transport;
  size_bytes_.With({TransferDirectionName(direction), transport})
      .Observe(static_cast<double>(result.bytes));
  if (direction == TransferDirection::kSend) {
    exposed_.Observe(Seconds(result.exposed_us));
    return;
  }
  // Of the side that sees every byte arrive.
  const int64_t copy_us = result.elapsed_us - result.claim_us;
  seconds_.With({transport, "claim"}).Observe(Seconds(result.claim_us));
  seconds_.With({transport, "copy"}).Observe(Seconds(copy_us));
  seconds_.With({transport, "total"}).Observe(Seconds(result.elapsed_us));
  copies_each_.With({transport}).Observe(static_cast<double>(result.copies));
  rate_.With({transport})
      .Observe(static_cast<double>(result.bytes) /
               Seconds(std::max<int64_t>(copy_us, 1)));
}

void TransferMetrics::OnPlanned(PlanKind kind, int64_t elapsed_us) {
  plan_.With({PlanKindName(kind)}).Observe(Seconds(elapsed_us));
}

void TransferMetrics::OnPaired(int64_t elapsed_us) {
  pair_.Observe(Seconds(elapsed_us));
}

void TransferMetrics::OnReleased(kvtransfer::Fence fence, int64_t elapsed_us) {
  quarantine_.With({kvtransfer::FenceName(fence)}).Observe(Seconds(elapsed_us));
}

void TransferMetrics::Reach(CounterFamily& family,
                            const std::vector<std::string>& labels,
                            uint64_t total) {
  std::string key = absl::StrCat(reinterpret_cast<uintptr_t>(&family));
  for (const std::string& label : labels) absl::StrAppend(&key, "|", label);
  Reached& reached = reached_[key];
  if (reached.counter == nullptr) {
    const std::vector<absl::string_view> views(labels.begin(), labels.end());
    reached.counter = &family.With(views);
  }
  if (total <= reached.total) return;
  reached.counter->Add(total - reached.total);
  reached.total = total;
}

void TransferMetrics::Update(const kvtransfer::TransferStats& stats,
                             const std::vector<kvtransfer::PeerInfo>& peers) {
  for (const auto& [key, count] : stats.transfers) {
    const auto& [direction, transport, state, code] = key;
    Reach(transfers_,
          {TransferDirectionName(direction), transport,
           kvtransfer::TransferStateName(state), CodeName(code)},
          count);
  }
  std::map<std::string, uint64_t> copies;
  for (const auto& [key, volume] : stats.volumes) {
    Reach(bytes_, {TransferDirectionName(key.first), key.second}, volume.bytes);
    copies[key.second] += volume.copies;
  }
  for (const auto& [transport, count] : copies) {
    Reach(copies_, {transport}, count);
  }
  for (const auto& [kind, n] : stats.stale_messages) Reach(stale_, {kind}, n);
  for (const auto& [kind, n] : stats.late_messages) Reach(late_, {kind}, n);
  for (const auto& [peer, n] : stats.digest_failures)
    Reach(digests_, {peer}, n);
  for (const auto& [peer, n] : stats.peers_lost) Reach(lost_, {peer}, n);
  for (const auto& [reason, n] : stats.pair_refusals) {
    Reach(refusals_, {reason}, n);
  }
  for (const TransferDirection direction :
       {TransferDirection::kSend, TransferDirection::kReceive}) {
    const auto index = static_cast<size_t>(direction);
    const absl::string_view name = TransferDirectionName(direction);
    inflight_.With({name}).Set(stats.inflight_transfers[index]);
    inflight_bytes_.With({name}).Set(stats.inflight_bytes[index]);
  }
  quarantined_.Set(stats.quarantined_blocks);
  UpdatePeers(peers);
}

void TransferMetrics::UpdatePeers(
    const std::vector<kvtransfer::PeerInfo>& peers) {
  std::array<int, 4> states = {};
  for (const kvtransfer::PeerInfo& peer : peers) {
    ++states[static_cast<size_t>(peer.state)];
  }
  for (size_t i = 0; i < states.size(); ++i) {
    peers_
        .With(
            {kvtransfer::PeerStateName(static_cast<kvtransfer::PeerState>(i))})
        .Set(states[i]);
  }
}

}  // namespace sluice::worker
