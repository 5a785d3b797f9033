#ifndef WORKER_MODEL_WEIGHT_CACHE_H_
#define WORKER_MODEL_WEIGHT_CACHE_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/sha256.h"
#include "kernels/tensor_view.h"
#include "worker/model/page_memory.h"

namespace sluice::worker {

// The packed bytes of one model: how many, and text that names what they
// depend on besides the source and the layout (formats, sizes, order).
struct PackedPlan {
  int64_t size_bytes = 0;
  std::string text;
};

struct WeightCacheOptions {
  std::string folder;  // made when it is needed
  // How long to wait for another worker that repacks the same weights.
  int64_t wait_ms = 300'000;
  // Entries that no worker opened for so long go when another is written.
  int64_t keep_days = 30;
};

// ${XDG_CACHE_HOME:-~/.cache}/sluice/weights; empty without a home.
std::string DefaultWeightCacheFolder();

// The folder of repacked weights, for one load of one model: Find(), and if
// it finds nothing, Keep(). An entry is a file named after the source's
// digest, the layout's version and the plan; workers of one host map the same
// file and so share its pages. An entry is written to a temporary, synced and
// renamed, under a lock that its holder's death releases; one that is short,
// spoilt, of another layout or another's to write is not used but written
// anew. Nothing here fails a load: what goes wrong is one warning(). One
// thread.
class WeightCache {
 public:
  WeightCache(WeightCacheOptions options, const Sha256Digest& source);
  ~WeightCache();
  WeightCache(const WeightCache&) = delete;
  WeightCache& operator=(const WeightCache&) = delete;

  // The packed bytes, shared and read-only, their digest checked on the pool;
  // else nothing: pack them and hand them to Keep(). Waits while another
  // worker packs them.
  std::optional<PageMemory> Find(const kernels::OpContext& context,
                                 const PackedPlan& plan);

  // Writes the entry and returns it mapped; `packed` itself when that cannot
  // be. The plan is that of the Find() before.
  PageMemory Keep(const kernels::OpContext& context, const PackedPlan& plan,
                  PageMemory packed);

  // Why the cache was of no use, if so; empty: nothing to say.
  const std::string& warning() const { return warning_; }
  bool found() const { return found_; }
  bool kept() const { return kept_; }

  // Where the entry of `plan` is.
  std::string EntryPath(const PackedPlan& plan) const;

 private:
  struct Footer;

  Footer FooterOf(const PackedPlan& plan, uint64_t digest) const;
  absl::StatusOr<PageMemory> Open(const kernels::OpContext& context,
                                  const PackedPlan& plan) const;
  absl::Status Lock(const PackedPlan& plan);
  void Unlock();
  absl::Status Write(const PackedPlan& plan, const Footer& footer,
                     const PageMemory& packed) const;
  void RemoveOld() const;
  void Warn(const absl::Status& status, absl::string_view consequence);

  const WeightCacheOptions options_;
  const Sha256Digest source_;
  int lock_fd_ = -1;  // >= 0: the entry is ours to write
  std::string warning_;
  bool found_ = false;
  bool kept_ = false;
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_WEIGHT_CACHE_H_
