#include "worker/model/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace sluice::worker {
namespace {

constexpr uintptr_t kPageBytes = 4096;

absl::Status ErrnoStatus(absl::string_view what, const std::string& path) {
  const int error = errno;
  const std::string text =
      absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    case ENOMEM:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::InvalidArgumentError(text);
  }
}

int64_t Nanos(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(
    const std::string& path) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  // Not blocking: a pipe by this name must not hang the start.
  file->fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->fd_ < 0) return ErrnoStatus("open", path);
  struct stat info;
  if (fstat(file->fd_, &info) != 0) return ErrnoStatus("stat", path);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a regular file"));
  }
  file->size_ = static_cast<uint64_t>(info.st_size);
  file->identity_ = {.device = info.st_dev,
                     .inode = info.st_ino,
                     .size = file->size_,
                     .modified_ns = Nanos(info.st_mtim),
                     .changed_ns = Nanos(info.st_ctim)};
  if (file->size_ == 0) return file;
  void* data = mmap(nullptr, file->size_, PROT_READ, MAP_SHARED, file->fd_, 0);
  if (data == MAP_FAILED) return ErrnoStatus("map", path);
  file->data_ = static_cast<const uint8_t*>(data);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
  if (fd_ >= 0) close(fd_);
}

void MappedFile::WillRead() const {
  if (data_ == nullptr) return;
  madvise(const_cast<uint8_t*>(data_), size_, MADV_WILLNEED);
}

void MappedFile::Drop(const uint8_t* from, uint64_t size_bytes) const {
  const uintptr_t at = reinterpret_cast<uintptr_t>(from);
  const uintptr_t begin = (at + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uintptr_t end = (at + size_bytes) / kPageBytes * kPageBytes;
  if (end <= begin) return;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

absl::Status MappedFile::CheckUnchanged() const {
  struct stat info;
  if (fstat(fd_, &info) != 0) return ErrnoStatus("stat", path_);
  if (static_cast<uint64_t>(info.st_size) != size_) {
    return absl::DataLossError(absl::StrCat(path_, " changed from ", size_,
                                            " to ", info.st_size,
                                            " bytes while it was loaded"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path,
                                         uint64_t limit_bytes) {
  ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> file,
                   MappedFile::Open(path));
  if (file->size() > limit_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " has ", file->size(), " bytes, limit ", limit_bytes));
  }
  return std::string(file->bytes());
}

}  // namespace sluice::worker
