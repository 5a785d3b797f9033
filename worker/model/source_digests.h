#ifndef WORKER_MODEL_SOURCE_DIGESTS_H_
#define WORKER_MODEL_SOURCE_DIGESTS_H_

#include <cstdint>
#include <string>

#include "base/sha256.h"
#include "worker/model/mapped_file.h"

namespace sluice::worker {

// SHA-256 of model files, remembered in a folder beside their path, device,
// inode, size and times of modification and change, so that a start does not
// read gigabytes to learn what it knows. A file that was touched since is read
// anew; so is one that changed within `settle_ms` before, whose next change
// might carry the same time. Any thread.
class SourceDigests {
 public:
  struct Options {
    std::string folder;        // empty: nothing is remembered
    int64_t settle_ms = 2000;  // of a clock tick and of a slow clock
    uint64_t min_bytes = 1 << 20;
  };
  explicit SourceDigests(Options options);

  Sha256Digest Of(const MappedFile& file) const;

 private:
  std::string NotePath(const MappedFile& file) const;

  const Options options_;
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_SOURCE_DIGESTS_H_
