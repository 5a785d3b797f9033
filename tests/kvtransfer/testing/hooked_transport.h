#ifndef TESTS_KVTRANSFER_TESTING_HOOKED_TRANSPORT_H_
#define TESTS_KVTRANSFER_TESTING_HOOKED_TRANSPORT_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kvtransfer/transport.h"

namespace sluice::kvtransfer {

// A real transport that says when its operations start and end, and whose wire
// flips bits when told to: in what it sends (stream), in what it reads (pull).
// All but flips() on the transfer thread.
class HookedTransport final : public Transport {
 public:
  // Told `read:start`, `read:end`, `write:start`, `write:end`. True at a start:
  // one bit of what is read or written flips.
  using OnPoint = std::function<bool(const std::string& point)>;

  HookedTransport(std::unique_ptr<Transport> wire, OnPoint on_point,
                  uint64_t seed)
      : Transport(wire->name(), wire->mode()),
        wire_(std::move(wire)),
        on_point_(std::move(on_point)),
        random_(seed) {
    address_ = wire_->address();
    event_fd_ = wire_->event_fd();
  }

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
    if (on_point_("write:start")) Flip(payload);
    auto operation = wire_->StartWrite(link, header, std::move(payload));
    if (operation.ok()) operations_[*operation].end = "write:end";
    return operation;
  }
  absl::StatusOr<OperationId> StartRead(LinkId link,
                                        std::vector<ReadPiece> pieces,
                                        ReadSink* sink) override {
    Operation open{.end = "read:end", .sink = nullptr};
    if (on_point_("read:start")) {
      open.sink = std::make_unique<FlippingSink>();
      open.sink->owner = this;
      open.sink->sink = sink;
      open.sink->piece = random_() % pieces.size();
      sink = open.sink.get();
    }
    auto operation = wire_->StartRead(link, std::move(pieces), sink);
    if (operation.ok()) operations_[*operation] = std::move(open);
    return operation;
  }
  std::optional<absl::Status> Poll(OperationId operation) override {
    std::optional<absl::Status> status = wire_->Poll(operation);
    if (!status.has_value()) return status;
    const auto found = operations_.find(operation);
    if (found != operations_.end()) {
      on_point_(found->second.end);
      operations_.erase(found);
    }
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
    HookedTransport* owner = nullptr;
    ReadSink* sink = nullptr;
    size_t piece = 0;
  };
  struct Operation {
    std::string end;
    std::unique_ptr<FlippingSink> sink;
  };

  void Flip(std::vector<std::byte>& bytes) {
    if (bytes.empty()) return;
    const uint64_t bit = random_() % (bytes.size() * 8);
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    ++flips_;
  }

  const std::unique_ptr<Transport> wire_;
  const OnPoint on_point_;
  std::mt19937_64 random_;
  std::map<OperationId, Operation> operations_;
  std::atomic<int64_t> flips_{0};
};

}  // namespace sluice::kvtransfer

#endif  // TESTS_KVTRANSFER_TESTING_HOOKED_TRANSPORT_H_
