#ifndef ROUTER_TEXT_VOCABULARY_H_
#define ROUTER_TEXT_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace sluice::router {

// What each token id stands for. Immutable, thread-safe.
class Vocabulary {
 public:
  struct Options {
    std::vector<std::string> token_bytes;  // [vocab]
    std::vector<bool> is_special;          // [vocab]
    int32_t bos_id = -1;                   // -1: none
    int32_t eos_id = -1;
    std::vector<int32_t> eos_ids;
    // The first space of a decoded text is an artefact of encoding.
    bool strips_leading_space = false;
  };

  Vocabulary() = default;
  explicit Vocabulary(Options options) : options_(std::move(options)) {}

  int32_t size() const {
    return static_cast<int32_t>(options_.token_bytes.size());
  }
  bool Contains(int32_t id) const { return id >= 0 && id < size(); }
  absl::string_view TokenBytes(int32_t id) const {
    if (!Contains(id)) return {};
    return options_.token_bytes[static_cast<size_t>(id)];
  }
  bool IsSpecial(int32_t id) const {
    return Contains(id) && options_.is_special[static_cast<size_t>(id)];
  }
  int32_t bos_id() const { return options_.bos_id; }
  int32_t eos_id() const { return options_.eos_id; }
  const std::vector<int32_t>& eos_ids() const { return options_.eos_ids; }
  bool strips_leading_space() const { return options_.strips_leading_space; }

 private:
  Options options_;
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_VOCABULARY_H_
