#ifndef BASE_LOG_FOLD_H_
#define BASE_LOG_FOLD_H_

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace sluice {

// Folds equal lines: of one body the first 10 in a second pass, the rest are
// counted and come back as one at the second's end. Remembers at most 1 024
// bodies at a time and lets others pass. One thread at a time.
class LogFold {
 public:
  // Whether the line passes now.
  bool Passes(const std::string& body, int64_t now_us);

  struct Folded {
    std::string body;
    uint64_t repeat;  // lines held back
  };
  // What was held back in seconds that have ended; all of it if `all`.
  std::vector<Folded> TakeEnded(int64_t now_us, bool all);

  bool empty() const { return windows_.empty(); }

 private:
  struct Window {
    int64_t start_us = 0;
    uint64_t num_lines = 0;
  };

  std::unordered_map<std::string, Window> windows_;
};

}  // namespace sluice

#endif  // BASE_LOG_FOLD_H_
