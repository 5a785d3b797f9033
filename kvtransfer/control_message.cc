#include "kvtransfer/control_message.h"

namespace sluice::kvtransfer {

const char* TransferStateName(TransferState state) {
  switch (state) {
    case TransferState::kCompleted:
      return "completed";
    case TransferState::kFailed:
      return "failed";
    case TransferState::kCancelled:
      return "cancelled";
    case TransferState::kExpired:
      return "expired";
  }
  return "unknown";
}

const char* TransferModeName(TransferMode mode) {
  switch (mode) {
    case TransferMode::kPull:
      return "pull";
    case TransferMode::kStream:
      return "stream";
    case TransferMode::kPut:
      return "put";
  }
  return "unknown";
}

const char* FenceName(Fence fence) {
  switch (fence) {
    case Fence::kStopped:
      return "stopped";
    case Fence::kClose:
      return "close";
    case Fence::kDeregistered:
      return "deregistered";
    case Fence::kDeath:
      return "death";
  }
  return "unknown";
}

const char* KindName(const ControlBody& body) {
  struct Visitor {
    const char* operator()(const Heartbeat&) { return "heartbeat"; }
    const char* operator()(const Claim&) { return "claim"; }
    const char* operator()(const Grant&) { return "grant"; }
    const char* operator()(const Refuse&) { return "refuse"; }
    const char* operator()(const RectangleDone&) { return "rectangle"; }
    const char* operator()(const Ack&) { return "ack"; }
    const char* operator()(const Stop&) { return "stop"; }
    const char* operator()(const Stopped&) { return "stopped"; }
    const char* operator()(const Abort&) { return "abort"; }
    const char* operator()(const Outcome&) { return "outcome"; }
    const char* operator()(const Attachment&) { return "attachment"; }
    const char* operator()(const Credit&) { return "credit"; }
  };
  return std::visit(Visitor{}, body);
}

}  // namespace sluice::kvtransfer
