#include "worker/model/source_digests.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "worker/model/open_file.h"

namespace sluice::worker {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kReadBytes = 8 << 20;
constexpr size_t kHexBytes = 64;
constexpr uint64_t kMaxNoteBytes = 4096;

// Reads the whole file and keeps none of its pages.
Sha256Digest Hash(const MappedFile& file) {
  Sha256 hash;
  for (uint64_t at = 0; at < file.size(); at += kReadBytes) {
    const uint64_t size = std::min(kReadBytes, file.size() - at);
    hash.Update(file.bytes().substr(at, size));
    file.Drop(file.data() + at, size);
  }
  return hash.Finish();
}

std::string RealPath(const std::string& path) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  return error ? path : real.string();
}

std::string NoteText(const MappedFile& file) {
  const FileIdentity id = file.identity();
  return absl::StrCat("sluice.digest.1 ", id.device, " ", id.inode, " ",
                      id.size, " ", id.modified_ns, " ", id.changed_ns, " ",
                      absl::CHexEscape(RealPath(file.path())), "\n");
}

// A note is its text, the digest, and the digest of both, in hex.
std::string Note(const std::string& text, const std::string& hex) {
  return absl::StrCat(text, hex, "\n", ToHex(Sha256Of(text + hex)), "\n");
}

// Written aside and renamed: a reader sees a whole note or none. Best effort:
// without a note the file is read again.
void WriteNote(const std::string& path, const std::string& note) {
  static std::atomic<uint32_t> counter{0};
  const std::string temporary =
      absl::StrCat(path, ".", getpid(), ".", counter++, ".tmp");
  {
    const OpenFile file(
        open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (file.fd() < 0) return;
    if (write(file.fd(), note.data(), note.size()) !=
        static_cast<ssize_t>(note.size())) {
      unlink(temporary.c_str());
      return;
    }
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) unlink(temporary.c_str());
}

}  // namespace

SourceDigests::SourceDigests(Options options) : options_(std::move(options)) {}

std::string SourceDigests::NotePath(const MappedFile& file) const {
  return absl::StrCat(options_.folder, "/",
                      ToHex(Sha256Of(RealPath(file.path()))).substr(0, 32),
                      ".digest");
}

Sha256Digest SourceDigests::Of(const MappedFile& file) const {
  if (options_.folder.empty() || file.size() < options_.min_bytes) {
    return Hash(file);
  }
  const std::string path = NotePath(file);
  const std::string text = NoteText(file);
  const absl::StatusOr<std::string> note = ReadTextFile(path, kMaxNoteBytes);
  if (note.ok() && note->size() > text.size() + kHexBytes) {
    const std::string hex = note->substr(text.size(), kHexBytes);
    const std::string bytes = absl::HexStringToBytes(hex);
    Sha256Digest digest;
    if (*note == Note(text, hex) && bytes.size() == digest.size()) {
      std::copy(bytes.begin(), bytes.end(), digest.begin());
      return digest;
    }
  }
  const FileIdentity id = file.identity();
  const int64_t now_ns = SystemClock::Get().UnixMicros() * 1000;
  const Sha256Digest digest = Hash(file);
  if (now_ns - std::max(id.modified_ns, id.changed_ns) <
      options_.settle_ms * 1'000'000) {
    return digest;
  }
  std::error_code error;
  fs::create_directories(options_.folder, error);
  if (!error) WriteNote(path, Note(text, ToHex(digest)));
  return digest;
}

}  // namespace sluice::worker
