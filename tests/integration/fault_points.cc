#include "tests/integration/fault_points.h"

#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sluice {
namespace {

using kvtransfer::ControlMessage;
using kvtransfer::DataHeader;
using kvtransfer::LinkId;
using kvtransfer::OperationId;
using kvtransfer::ReadPiece;
using kvtransfer::ReadSink;

class PassingControl final : public kvtransfer::ControlLink {
 public:
  PassingControl(kvtransfer::ControlLink& links, FaultPoints& points)
      : links_(links), points_(points) {}

  void Send(const std::string& peer, const ControlMessage& message) override {
    const std::string point =
        absl::StrCat("send:", kvtransfer::KindName(message.body));
    points_.Pass(point + ":before");
    links_.Send(peer, message);
    points_.Pass(point + ":after");
  }

 private:
  kvtransfer::ControlLink& links_;
  FaultPoints& points_;
};

class PassingTransport final : public kvtransfer::Transport {
 public:
  PassingTransport(std::unique_ptr<kvtransfer::Transport> wire,
                   FaultPoints& points)
      : Transport(wire->name(), wire->mode()),
        wire_(std::move(wire)),
        points_(points) {
    address_ = wire_->address();
    event_fd_ = wire_->event_fd();
  }

  absl::Status Register(const kvtransfer::Region& region) override {
    return wire_->Register(region);
  }
  absl::StatusOr<LinkId> Connect(const kvtransfer::LinkArgs& args) override {
    return wire_->Connect(args);
  }
  absl::StatusOr<OperationId> StartWrite(
      LinkId link, const DataHeader& header,
      std::vector<std::byte> payload) override {
    if (points_.Pass("write:start")) Flip(payload);
    auto operation = wire_->StartWrite(link, header, std::move(payload));
    if (operation.ok()) operations_[*operation].point = "write:end";
    return operation;
  }
  absl::StatusOr<OperationId> StartRead(LinkId link,
                                        std::vector<ReadPiece> pieces,
                                        ReadSink* sink) override {
    Operation open{.point = "read:end", .sink = nullptr};
    if (points_.Pass("read:start")) {
      open.sink = std::make_unique<FlippingSink>();
      open.sink->owner = this;
      open.sink->sink = sink;
      open.sink->piece = points_.Random() % pieces.size();
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
      points_.Pass(found->second.point);
      operations_.erase(found);
    }
    return status;
  }
  bool Progress(kvtransfer::TransportEvents& events, bool may_sleep) override {
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
    PassingTransport* owner = nullptr;
    ReadSink* sink = nullptr;
    size_t piece = 0;
  };
  struct Operation {
    std::string point;
    std::unique_ptr<FlippingSink> sink;
  };

  void Flip(std::vector<std::byte>& bytes) {
    if (bytes.empty()) return;
    const uint64_t bit = points_.Random() % (bytes.size() * 8);
    bytes[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
  }

  const std::unique_ptr<kvtransfer::Transport> wire_;
  FaultPoints& points_;
  std::map<OperationId, Operation> operations_;
};

}  // namespace

FaultPoints::FaultPoints(std::string instance, std::string plan_path)
    : instance_(std::move(instance)), plan_path_(std::move(plan_path)) {}

bool FaultPoints::Pass(const std::string& point) {
  std::string line;
  std::getline(std::ifstream(plan_path_), line);
  std::string instance, wanted, action;
  int nth = 0;
  std::istringstream(line) >> instance >> wanted >> nth >> action;
  MutexLock lock(mu_);
  if (line != line_) {
    line_ = line;
    passed_ = 0;
    done_ = false;
  }
  if (instance != instance_ || wanted != point || done_) return false;
  ++passed_;
  if (action == "flip") return passed_ % nth == 0;
  if (passed_ < nth) return false;
  done_ = true;
  kill(getpid(), action == "kill" ? SIGKILL : SIGSTOP);
  return false;
}

uint64_t FaultPoints::Random() {
  MutexLock lock(mu_);
  return random_();
}

worker::TransferHooks HooksFor(FaultPoints& points) {
  return {.wrap_transport =
              [&points](std::unique_ptr<kvtransfer::Transport> wire) {
                return std::make_unique<PassingTransport>(std::move(wire),
                                                          points);
              },
          .wrap_control =
              [&points](kvtransfer::ControlLink& links) {
                return std::make_unique<PassingControl>(links, points);
              }};
}

}  // namespace sluice
