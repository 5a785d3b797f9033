#ifndef KVTRANSFER_UCX_UCX_PUT_CONTEXT_H_
#define KVTRANSFER_UCX_UCX_PUT_CONTEXT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kvtransfer/region_table.h"
#include "ucp/api/ucp.h"

namespace sluice::kvtransfer {

// Which wire writes into a peer's memory by itself, and so what fences it
// (kv_transfer.md section 7).
enum class PutWire {
  // Adapters, with a queue pair a connection and with shared ones. Of both only
  // deregistration is a fence: which pair a peer writes through, UCX decides.
  kRc,
  kDc,
  // The writer copies into memory that UCX allocated and both map. It has no
  // peer error handling and only the writer's death is a fence: for tests and
  // measurements of put mode, offered by no worker.
  kSharedMemory,
};

// A UCX context for one-sided writes, apart from the stream's, which must not
// have the emulated put. Shared by a transport and the memory it writes; any
// thread may map and unmap.
class UcxPutContext {
 public:
  // kUnavailable when this machine has no such wire.
  static absl::StatusOr<std::shared_ptr<UcxPutContext>> Create(PutWire wire);
  ~UcxPutContext();
  UcxPutContext(const UcxPutContext&) = delete;
  UcxPutContext& operator=(const UcxPutContext&) = delete;

  PutWire wire() const { return wire_; }
  ucp_context_h handle() const { return context_; }

  // Registers memory of kind "host", "cuda" or "rocm". kInvalidArgument for
  // another kind, kUnimplemented for one that UCX does not reach here.
  absl::StatusOr<ucp_mem_h> Map(const Region& region) const;
  void Unmap(ucp_mem_h memory) const;

 private:
  UcxPutContext() = default;

  PutWire wire_ = PutWire::kRc;
  ucp_context_h context_ = nullptr;
  uint64_t memory_types_ = 0;  // bits of ucs_memory_type_t
};

// kInvalidArgument naming a kind that is none of host, cuda, rocm.
absl::StatusOr<ucs_memory_type_t> UcsMemoryType(const std::string& kind);

// Host memory that UCX allocated, which over kSharedMemory alone can be
// written without the owner's help. Page-aligned; any thread.
class UcxPutMemory {
 public:
  static absl::StatusOr<std::unique_ptr<UcxPutMemory>> Create(
      std::shared_ptr<UcxPutContext> context, uint64_t size_bytes);
  ~UcxPutMemory();
  UcxPutMemory(const UcxPutMemory&) = delete;
  UcxPutMemory& operator=(const UcxPutMemory&) = delete;

  std::byte* base() const { return base_; }
  ucp_mem_h handle() const { return memory_; }
  // For TransferEngine; borrows the memory.
  Region region() const;

 private:
  explicit UcxPutMemory(std::shared_ptr<UcxPutContext> context);

  const std::shared_ptr<UcxPutContext> context_;
  ucp_mem_h memory_ = nullptr;
  std::byte* base_ = nullptr;
  uint64_t size_bytes_ = 0;
};

}  // namespace sluice::kvtransfer

#endif  // KVTRANSFER_UCX_UCX_PUT_CONTEXT_H_
