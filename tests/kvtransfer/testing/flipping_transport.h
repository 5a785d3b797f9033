#ifndef TESTS_KVTRANSFER_TESTING_FLIPPING_TRANSPORT_H_
#define TESTS_KVTRANSFER_TESTING_FLIPPING_TRANSPORT_H_

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

// A real transport whose wire flips bits: in what it sends (stream), in what
// it reads (pull). All but Arm() and flips() on the transfer thread.
class FlippingTransport final : public Transport {
 public:
  FlippingTransport(std::unique_ptr<Transport> wire, uint64_t seed)
      : Transport(wire->name(), wire->mode()),
        wire_(std::move(wire)),
        random_(seed) {
    address_ = wire_->address();
    event_fd_ = wire_->event_fd();
  }

  // The next write, or the next read, has one bit flipped. Any thread.
  void Arm() { armed_ = true; }
  int64_t flips() const { return flips_; }

  absl::Status Register(const Region& region) override {
    return wire_->Register(region);
  }
  absl::StatusOr<LinkId> Connect(const LinkArgs& args) override {
    return wire_->Connect(args);
  }
  absl::StatusOr<OperationId> StartWrite(
      LinkId link, const DataHeader& header,
      std::vector<std::byte> payload) override {
    if (armed_.exchange(false)) Flip(payload);
    return wire_->StartWrite(link, header, std::move(payload));
  }
  absl::StatusOr<OperationId> StartRead(LinkId link,
                                        std::vector<ReadPiece> pieces,
                                        ReadSink* sink) override {
    if (!armed_.exchange(false)) {
      return wire_->StartRead(link, std::move(pieces), sink);
    }
    auto flipping = std::make_unique<FlippingSink>();
    flipping->owner = this;
    flipping->sink = sink;
    flipping->piece = random_() % pieces.size();
    ReadSink* const between = flipping.get();
    absl::StatusOr<OperationId> operation =
        wire_->StartRead(link, std::move(pieces), between);
    if (operation.ok()) sinks_[*operation] = std::move(flipping);
    return operation;
  }
  std::optional<absl::Status> Poll(OperationId operation) override {
    std::optional<absl::Status> status = wire_->Poll(operation);
    if (status.has_value()) sinks_.erase(operation);
    return status;
  }
  bool Progress(TransportEvents& events, bool may_sleep) override {
    return wire_->Progress(events, may_sleep);
  }
  void Close(LinkId link) override { wire_->Close(link); }

 private:
  struct FlippingSink final : public ReadSink {
    void OnPiece(size_t index, absl::Span<const std::byte> bytes,
                 const std::byte* next) override {
      if (index != piece) {
        sink->OnPiece(index, bytes, next);
        return;
      }
      std::vector<std::byte> copy(bytes.begin(), bytes.end());
      owner->Flip(copy);
      sink->OnPiece(index, copy, nullptr);
    }
    FlippingTransport* owner = nullptr;
    ReadSink* sink = nullptr;
    size_t piece = 0;
  };

  void Flip(std::vector<std::byte>& bytes) {
    const uint64_t bit = random_() % (bytes.size() * 8);
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    ++flips_;
  }

  const std::unique_ptr<Transport> wire_;
  std::mt19937_64 random_;
  std::map<OperationId, std::unique_ptr<FlippingSink>> sinks_;
  std::atomic<bool> armed_{false};
  std::atomic<int64_t> flips_{0};
};

}  // namespace sluice::kvtransfer

#endif  // TESTS_KVTRANSFER_TESTING_FLIPPING_TRANSPORT_H_
