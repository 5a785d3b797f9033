#ifndef TOOLS_KV_BENCH_CHANNEL_H_
#define TOOLS_KV_BENCH_CHANNEL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "base/mutex.h"

namespace sluice::kv_bench {

// What travels between the two processes of the benchmark.
enum class FrameKind : uint32_t {
  kLayout,     // to the source: engines of a new layout, a Setup as text
  kPair,       // PairRequest, answered by kPaired
  kPaired,     // PairResponse
  kLinkUp,     // no body
  kControl,    // KvMessage
  kAppend,     // a SendOrder without a ticket: the source digests its blocks as
               // if it had just written them; answered by kDone
  kSend,       // a SendOrder
  kCpu,        // no body, answered by kCpuIs
  kCpuIs,      // a double
  kPutPair,    // serve the floor of puts; answered by kPaired with an address,
               // and by kDone once its link is up
  kPutBlocks,  // blocks to put, answered by kDone
  kPut,        // put them, answered by kDone when all have landed
  kShutdown,   // ends the engines of a layout, answered by kDone
  kDone,
  kQuit,
};

struct Frame {
  FrameKind kind = FrameKind::kDone;
  uint32_t engine = 0;
  std::string body;
};

// Length-prefixed frames over a connected stream socket. Any thread may send;
// one receives.
class Channel {
 public:
  explicit Channel(int fd) : fd_(fd) {}
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  void Send(FrameKind kind, uint32_t engine, const std::string& body);
  // nullopt: the other end is gone.
  std::optional<Frame> Receive();

 private:
  const int fd_;
  Mutex send_mu_;
};

}  // namespace sluice::kv_bench

#endif  // TOOLS_KV_BENCH_CHANNEL_H_
