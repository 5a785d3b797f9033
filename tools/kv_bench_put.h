#ifndef TOOLS_KV_BENCH_PUT_H_
#define TOOLS_KV_BENCH_PUT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kvtransfer/ucx/ucx_put_transport.h"
#include "tools/kv_bench_floor.h"

namespace sluice::kv_bench {

// One end of the floor "ucx_put": the bare loop of ucp_put_nbx and one flush,
// from the source's pool into memory that UCX allocated in the target. The
// target dials; each end is made and used in its own process.
class PutFloor {
 public:
  // Memory to be written: all of a pool; at the source, a page. Ends the
  // process with a message when something cannot be made.
  explicit PutFloor(uint64_t region_bytes);

  const std::string& address() const { return wire_->address(); }
  void Serve();
  void Dial(const std::string& address);
  // Both ends, at once, until the link is proven.
  void AwaitUp();

  // The source: what the next Run() writes, `block_bytes` each.
  void Prepare(const std::byte* from, const Blocks& blocks,
               uint64_t block_bytes);
  // Until every byte has landed.
  void Run();

  std::byte* base() const { return memory_->base(); }

 private:
  class Events;

  std::shared_ptr<kvtransfer::UcxPutContext> context_;
  std::unique_ptr<kvtransfer::UcxPutMemory> memory_;
  std::unique_ptr<kvtransfer::UcxPutTransport> wire_;
  kvtransfer::LinkId link_ = 0;
  std::vector<kvtransfer::PutPiece> pieces_;
};

// Blocks and their size as the body of a frame.
std::string BlocksToBody(const Blocks& blocks, uint64_t block_bytes);
uint64_t BlocksFromBody(const std::string& body, Blocks& blocks);

}  // namespace sluice::kv_bench

#endif  // TOOLS_KV_BENCH_PUT_H_
