#ifndef WORKER_MODEL_OPEN_FILE_H_
#define WORKER_MODEL_OPEN_FILE_H_

#include <unistd.h>

namespace sluice::worker {

// Closes a descriptor at the end of its scope; fd() < 0: opening failed, and
// errno says why until the next call.
class OpenFile {
 public:
  explicit OpenFile(int fd) : fd_(fd) {}
  ~OpenFile() {
    if (fd_ >= 0) close(fd_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int fd() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace sluice::worker

#endif  // WORKER_MODEL_OPEN_FILE_H_
