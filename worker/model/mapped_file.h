#ifndef WORKER_MODEL_MAPPED_FILE_H_
#define WORKER_MODEL_MAPPED_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::worker {

// What tells a file's content apart from an earlier one without reading it:
// the change time cannot be set back.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  int64_t modified_ns = 0;  // since 1970
  int64_t changed_ns = 0;
};

// A file mapped read-only as long as the object lives. Immutable, any thread.
// Bytes are read once, while loading; CheckUnchanged() before each large read
// turns a file cut short meanwhile into a status instead of a bus error.
class MappedFile {
 public:
  // kNotFound, kPermissionDenied, kInvalidArgument (no regular file) with the
  // path in the text. An empty file maps to no bytes.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(
      const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  absl::string_view bytes() const {
    return {reinterpret_cast<const char*>(data_), size_};
  }
  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }

  FileIdentity identity() const { return identity_; }  // at Open()

  // Asks the system to read it from here on ahead of use.
  void WillRead() const;
  // Lets go of this process's pages of [from, from + size_bytes); read again,
  // they come from the page cache. A part of a page stays.
  void Drop(const uint8_t* from, uint64_t size_bytes) const;

  // kDataLoss when the file's size differs from that at Open().
  absl::Status CheckUnchanged() const;

 private:
  MappedFile() = default;

  std::string path_;
  int fd_ = -1;
  const uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
  FileIdentity identity_;
};

// The whole of a small text file. kNotFound when it does not exist,
// kInvalidArgument above `limit_bytes`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path,
                                         uint64_t limit_bytes);

}  // namespace sluice::worker

#endif  // WORKER_MODEL_MAPPED_FILE_H_
