#include "worker/model/weight_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/packed_matrix.h"
#include "kvtransfer/block_digest.h"
#include "worker/model/open_file.h"

namespace sluice::worker {

namespace fs = std::filesystem;

// Behind the packed bytes, at the next multiple of a page.
struct WeightCache::Footer {
  char magic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'W', '\n'};
  uint32_t file_version = 1;
  uint32_t layout_version = kernels::kPackedLayoutVersion;
  uint64_t packed_bytes = 0;
  uint64_t packed_digest = 0;
  uint8_t key[32] = {};
};

namespace {

constexpr int64_t kPageBytes = 4096;
// One folio of the page cache at most: what is written in such pieces can be
// mapped as huge pages.
constexpr int64_t kWriteBytes = int64_t{2} << 20;
constexpr int64_t kDigestBytes = int64_t{2} << 20;
constexpr auto kLockPoll = std::chrono::milliseconds(2);
constexpr char kEnding[] = ".weights";
constexpr int64_t kNanosPerDay = int64_t{86'400} * 1'000'000'000;

absl::Status Failed(absl::string_view what, const std::string& path) {
  return absl::UnavailableError(
      absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(errno)));
}

int64_t FooterAt(int64_t packed_bytes) {
  return (packed_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

// The digest of KV transfers over 8-byte words, summed up by the pool, each
// thread over one run of pages.
uint64_t DigestOf(const kernels::OpContext& context, const PageMemory& memory) {
  const int64_t pieces =
      (memory.size_bytes() + kDigestBytes - 1) / kDigestBytes;
  const int threads = context.pool->num_threads();
  std::atomic<uint64_t> sum{0};
  context.pool->Run([&](int thread) {
    const int64_t begin = pieces * thread / threads * kDigestBytes;
    const int64_t end = std::min(pieces * (thread + 1) / threads * kDigestBytes,
                                 memory.size_bytes());
    if (end <= begin) return;
    sum += kvtransfer::BestDigestKernels().digest(
        reinterpret_cast<const std::byte*>(memory.data() + begin),
        static_cast<size_t>(end - begin) / 8, static_cast<uint64_t>(begin) / 8,
        /*group_id=*/0);
  });
  return sum;
}

absl::Status WriteAll(int fd, const uint8_t* bytes, int64_t size_bytes,
                      int64_t at, const std::string& path) {
  for (int64_t done = 0; done < size_bytes;) {
    const ssize_t n =
        pwrite(fd, bytes + done,
               static_cast<size_t>(std::min(kWriteBytes, size_bytes - done)),
               at + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Failed("write", path);
    done += n;
  }
  return absl::OkStatus();
}

// The version in "<source>-v<version>-<plan>.weights", if it is such a name.
std::optional<uint32_t> LayoutVersionOf(absl::string_view name,
                                        absl::string_view source) {
  uint32_t version = 0;
  if (!absl::ConsumePrefix(&name, absl::StrCat(source, "-v")) ||
      !absl::EndsWith(name, kEnding) ||
      !absl::SimpleAtoi(name.substr(0, name.find('-')), &version)) {
    return std::nullopt;
  }
  return version;
}

}  // namespace

std::string DefaultWeightCacheFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') {
    return absl::StrCat(cache, "/sluice/weights");
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || home[0] != '/') return std::string();
  return absl::StrCat(home, "/.cache/sluice/weights");
}

WeightCache::WeightCache(WeightCacheOptions options, const Sha256Digest& source)
    : options_(std::move(options)), source_(source) {}

WeightCache::~WeightCache() { Unlock(); }

std::string WeightCache::EntryPath(const PackedPlan& plan) const {
  return absl::StrCat(options_.folder, "/", ToHex(source_).substr(0, 32), "-v",
                      kernels::kPackedLayoutVersion, "-",
                      ToHex(Sha256Of(plan.text)).substr(0, 16), kEnding);
}

WeightCache::Footer WeightCache::FooterOf(const PackedPlan& plan,
                                          uint64_t digest) const {
  static_assert(std::is_trivially_copyable_v<Footer> && sizeof(Footer) == 64);
  Footer footer;
  footer.packed_bytes = static_cast<uint64_t>(plan.size_bytes);
  footer.packed_digest = digest;
  Sha256 hash;
  hash.Update("sluice.weights.1");
  hash.Update(ToBytes(source_));
  hash.Update(plan.text);
  const Sha256Digest key = hash.Finish();
  std::copy(key.begin(), key.end(), footer.key);
  return footer;
}

absl::StatusOr<PageMemory> WeightCache::Open(const kernels::OpContext& context,
                                             const PackedPlan& plan) const {
  const std::string path = EntryPath(plan);
  const OpenFile file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd() < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return absl::NotFoundError(path);
    return Failed("open", path);
  }
  struct stat info;
  if (fstat(file.fd(), &info) != 0) return Failed("stat", path);
  const auto spoilt = [&path](absl::string_view why) {
    return absl::DataLossError(absl::StrCat(path, " ", why));
  };
  if (!S_ISREG(info.st_mode)) return spoilt("is not a regular file");
  if ((info.st_uid != geteuid() && info.st_uid != 0) ||
      (info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return spoilt("can be written by others");
  }
  const int64_t footer_at = FooterAt(plan.size_bytes);
  if (info.st_size != footer_at + int64_t{sizeof(Footer)}) {
    return spoilt(absl::StrCat("has ", info.st_size, " bytes, wanted ",
                               footer_at + int64_t{sizeof(Footer)}));
  }
  Footer footer;
  if (pread(file.fd(), &footer, sizeof(footer), footer_at) != sizeof(footer)) {
    return Failed("read", path);
  }
  const Footer wanted = FooterOf(plan, footer.packed_digest);
  if (std::memcmp(&footer, &wanted, sizeof(footer)) != 0) {
    return spoilt("is of other weights or of another version");
  }
  ASSIGN_OR_RETURN(PageMemory memory,
                   PageMemory::MapFile(file.fd(), plan.size_bytes, path));
  if (DigestOf(context, memory) != footer.packed_digest) {
    return spoilt("does not match its digest");
  }
  // Says that it is in use; without the right to, it only ages.
  (void)futimens(file.fd(), nullptr);
  return memory;
}

absl::Status WeightCache::Lock(const PackedPlan& plan) {
  std::error_code error;
  fs::create_directories(options_.folder, error);
  if (error) {
    errno = error.value();
    return Failed("make folder", options_.folder);
  }
  const std::string path = options_.folder + "/lock";
  lock_fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock_fd_ < 0) return Failed("open", path);
  // One byte of the file for each entry: other models do not wait.
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  const Footer footer = FooterOf(plan, 0);
  std::memcpy(&lock.l_start, footer.key, 6);
  lock.l_len = 1;
  const int64_t begin_ms = SystemClock::Get().NowMs();
  while (fcntl(lock_fd_, F_OFD_SETLK, &lock) != 0) {
    if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
      const absl::Status status = Failed("lock", path);
      Unlock();
      return status;
    }
    if (SystemClock::Get().NowMs() - begin_ms >= options_.wait_ms) {
      Unlock();
      return absl::DeadlineExceededError(
          absl::StrCat("another worker has held the lock of ", EntryPath(plan),
                       " for ", options_.wait_ms, " ms"));
    }
    std::this_thread::sleep_for(kLockPoll);
  }
  return absl::OkStatus();
}

void WeightCache::Unlock() {
  if (lock_fd_ >= 0) close(lock_fd_);
  lock_fd_ = -1;
}

std::optional<PageMemory> WeightCache::Find(const kernels::OpContext& context,
                                            const PackedPlan& plan) {
  if (plan.size_bytes == 0) return std::nullopt;
  // Without the lock first: a folder that is only read will do.
  absl::StatusOr<PageMemory> memory = Open(context, plan);
  if (!memory.ok()) {
    if (absl::Status status = Lock(plan); !status.ok()) {
      Warn(status, "the weights stay in this worker's own memory");
      return std::nullopt;
    }
    memory = Open(context, plan);  // another worker may have written it
  }
  if (!memory.ok()) {
    if (!absl::IsNotFound(memory.status())) {
      Warn(memory.status(), "it is written anew");
    }
    return std::nullopt;
  }
  Unlock();
  found_ = true;
  return *std::move(memory);
}

PageMemory WeightCache::Keep(const kernels::OpContext& context,
                             const PackedPlan& plan, PageMemory packed) {
  if (lock_fd_ < 0) return packed;
  RemoveOld();
  const Footer footer = FooterOf(plan, DigestOf(context, packed));
  absl::Status status = Write(plan, footer, packed);
  if (status.ok()) {
    const std::string path = EntryPath(plan);
    const OpenFile file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    absl::StatusOr<PageMemory> mapped =
        file.fd() < 0 ? Failed("open", path)
                      : PageMemory::MapFile(file.fd(), plan.size_bytes, path);
    status = mapped.status();
    if (status.ok()) packed = *std::move(mapped);
  }
  Unlock();
  kept_ = status.ok();
  if (!kept_) Warn(status, "the weights stay in this worker's own memory");
  return packed;
}

absl::Status WeightCache::Write(const PackedPlan& plan, const Footer& footer,
                                const PageMemory& packed) const {
  const std::string path = EntryPath(plan);
  const std::string temporary = path + ".tmp";
  // What another left there when it died: the lock is ours.
  unlink(temporary.c_str());
  const auto write = [&]() -> absl::Status {
    const OpenFile file(
        open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (file.fd() < 0) return Failed("open", temporary);
    const int64_t footer_at = FooterAt(plan.size_bytes);
    RETURN_IF_ERROR(
        WriteAll(file.fd(), packed.data(), plan.size_bytes, 0, temporary));
    RETURN_IF_ERROR(WriteAll(file.fd(),
                             reinterpret_cast<const uint8_t*>(&footer),
                             sizeof(footer), footer_at, temporary));
    if (fsync(file.fd()) != 0) return Failed("sync", temporary);
    if (rename(temporary.c_str(), path.c_str()) != 0) {
      return Failed("rename to", path);
    }
    return absl::OkStatus();
  };
  absl::Status status = write();
  if (!status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  const OpenFile folder(
      open(options_.folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Not made durable, the name may be gone after a crash: then it is packed
  // once more.
  if (folder.fd() >= 0) (void)fsync(folder.fd());
  return absl::OkStatus();
}

void WeightCache::RemoveOld() const {
  const std::string source = ToHex(source_).substr(0, 32);
  const int64_t now_ns = SystemClock::Get().UnixMicros() * 1000;
  std::error_code error;
  for (fs::directory_iterator it(options_.folder, error), end;
       !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!absl::EndsWith(name, kEnding)) continue;
    const std::optional<uint32_t> version = LayoutVersionOf(name, source);
    struct stat info;
    const bool unused = stat(it->path().c_str(), &info) == 0 &&
                        now_ns - int64_t{info.st_mtim.tv_sec} * 1'000'000'000 >
                            options_.keep_days * kNanosPerDay;
    if (unused ||
        (version.has_value() && *version < kernels::kPackedLayoutVersion)) {
      unlink(it->path().c_str());
    }
  }
}

void WeightCache::Warn(const absl::Status& status,
                       absl::string_view consequence) {
  if (!warning_.empty()) return;
  warning_ = absl::StrCat("cache of repacked weights: ", status.message(), "; ",
                          consequence);
}

}  // namespace sluice::worker
