#include "tests/integration/fault_points.h"

#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/kvtransfer/testing/hooked_transport.h"

namespace sluice {
namespace {

using kvtransfer::ControlMessage;

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

worker::TransferHooks HooksFor(FaultPoints& points) {
  return {.wrap_transport =
              [&points](std::unique_ptr<kvtransfer::Transport> wire) {
                return std::make_unique<kvtransfer::HookedTransport>(
                    std::move(wire),
                    [&points](const std::string& point) {
                      return points.Pass(point);
                    },
                    /*seed=*/12);
              },
          .wrap_control =
              [&points](kvtransfer::ControlLink& links) {
                return std::make_unique<PassingControl>(links, points);
              }};
}

}  // namespace sluice
