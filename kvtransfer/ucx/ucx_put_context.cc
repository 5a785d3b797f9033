#include "kvtransfer/ucx/ucx_put_context.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "kvtransfer/ucx/ucx_context.h"

namespace sluice::kvtransfer {
namespace {

const char* TlsOf(PutWire wire) {
  switch (wire) {
    case PutWire::kRc:
      return "rc";
    case PutWire::kDc:
      return "dc";
    case PutWire::kSharedMemory:
      return "posix";
  }
  return "";
}

}  // namespace

absl::StatusOr<ucs_memory_type_t> UcsMemoryType(const std::string& kind) {
  if (kind == "host") return UCS_MEMORY_TYPE_HOST;
  if (kind == "cuda") return UCS_MEMORY_TYPE_CUDA;
  if (kind == "rocm") return UCS_MEMORY_TYPE_ROCM;
  return absl::InvalidArgumentError(
      absl::StrCat("memory kind \"", kind, "\" is none of host, cuda, rocm"));
}

absl::StatusOr<std::shared_ptr<UcxPutContext>> UcxPutContext::Create(
    PutWire wire) {
  ucp_config_t* config = nullptr;
  RETURN_IF_ERROR(
      FromUcs(ucp_config_read(nullptr, nullptr, &config), "config_read"));
  // Exactly this wire: of several UCX would take any, and the fence would be
  // the weakest.
  ucs_status_t status = ucp_config_modify(config, "TLS", TlsOf(wire));
  if (status == UCS_OK) {
    status = ucp_config_modify(config, "KEEPALIVE_INTERVAL", "1s");
  }
  if (status == UCS_OK && wire != PutWire::kSharedMemory) {
    // Else a cache keeps the keys of what was deregistered alive.
    status = ucp_config_modify(config, "REG_METHODS", "direct");
  }
  if (status == UCS_OK && wire == PutWire::kSharedMemory) {
    // Or nothing: elsewhere UCX would emulate the put.
    status = ucp_config_modify(config, "ALLOC_PRIO", "md:posix");
  }
  std::shared_ptr<UcxPutContext> result(new UcxPutContext);
  result->wire_ = wire;
  ucp_params_t params = {};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_RMA | UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  if (status == UCS_OK) {
    MutexLock lock(UcxDescriptors());
    status = ucp_init(&params, config, &result->context_);
  }
  ucp_config_release(config);
  RETURN_IF_ERROR(FromUcs(status, absl::StrCat("init of ", TlsOf(wire))));
  ucp_context_attr_t attributes = {};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  RETURN_IF_ERROR(FromUcs(ucp_context_query(result->context_, &attributes),
                          "context_query"));
  result->memory_types_ = attributes.memory_types;
  return result;
}

UcxPutContext::~UcxPutContext() {
  MutexLock lock(UcxDescriptors());
  if (context_ != nullptr) ucp_cleanup(context_);
}

absl::StatusOr<ucp_mem_h> UcxPutContext::Map(const Region& region) const {
  ASSIGN_OR_RETURN(const ucs_memory_type_t type,
                   UcsMemoryType(region.memory_kind));
  if ((memory_types_ >> type & 1) == 0) {
    return absl::UnimplementedError(absl::StrCat(
        "ucx reaches no ", region.memory_kind, " memory over this wire here"));
  }
  ucp_mem_map_params_t params = {};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS |
                      UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                      UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.address = region.base;
  params.length = region.size_bytes;
  params.memory_type = type;
  ucp_mem_h memory = nullptr;
  MutexLock lock(UcxDescriptors());
  RETURN_IF_ERROR(FromUcs(ucp_mem_map(context_, &params, &memory), "mem_map"));
  return memory;
}

void UcxPutContext::Unmap(ucp_mem_h memory) const {
  MutexLock lock(UcxDescriptors());
  ucp_mem_unmap(context_, memory);
}

UcxPutMemory::UcxPutMemory(std::shared_ptr<UcxPutContext> context)
    : context_(std::move(context)) {}

absl::StatusOr<std::unique_ptr<UcxPutMemory>> UcxPutMemory::Create(
    std::shared_ptr<UcxPutContext> context, uint64_t size_bytes) {
  std::unique_ptr<UcxPutMemory> result(new UcxPutMemory(std::move(context)));
  ucp_mem_map_params_t params = {};
  params.field_mask =
      UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS;
  params.length = size_bytes;
  params.flags = UCP_MEM_MAP_ALLOCATE;
  MutexLock lock(UcxDescriptors());
  RETURN_IF_ERROR(FromUcs(
      ucp_mem_map(result->context_->handle(), &params, &result->memory_),
      "mem_map"));
  ucp_mem_attr_t attributes = {};
  attributes.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS;
  RETURN_IF_ERROR(
      FromUcs(ucp_mem_query(result->memory_, &attributes), "mem_query"));
  result->base_ = static_cast<std::byte*>(attributes.address);
  result->size_bytes_ = size_bytes;
  return result;
}

UcxPutMemory::~UcxPutMemory() {
  if (memory_ != nullptr) context_->Unmap(memory_);
}

Region UcxPutMemory::region() const {
  Region region;
  region.key = RandomHexId(8);
  region.base = base_;
  region.size_bytes = size_bytes_;
  return region;
}

}  // namespace sluice::kvtransfer
