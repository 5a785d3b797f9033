#ifndef ROUTER_TEXT_BYTE_TRIE_H_
#define ROUTER_TEXT_BYTE_TRIE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace sluice::router {

// A set of non-empty byte strings, each with a value >= 0, that finds all
// members which begin at one place of a text. One writer, then thread-safe.
class ByteTrie {
 public:
  // The first value of a key stays.
  void Insert(absl::string_view key, int32_t value) {
    uint32_t node = 0;
    for (char c : key) {
      const auto next = static_cast<uint32_t>(values_.size());
      const auto [it, is_new] = edges_.try_emplace(Edge(node, c), next);
      if (is_new) values_.push_back(kNone);
      node = it->second;
    }
    if (values_[node] == kNone) values_[node] = value;
    if (!key.empty()) is_first_[static_cast<uint8_t>(key[0])] = true;
  }

  // Calls visit(value, end) for every member text[at, end), shortest first.
  template <typename Visit>
  void ForEachPrefix(absl::string_view text, size_t at, Visit&& visit) const {
    if (at >= text.size() || !is_first_[static_cast<uint8_t>(text[at])]) {
      return;
    }
    uint32_t node = 0;
    while (at < text.size()) {
      const auto it = edges_.find(Edge(node, text[at++]));
      if (it == edges_.end()) return;
      node = it->second;
      if (values_[node] != kNone) visit(values_[node], at);
    }
  }

 private:
  static constexpr int32_t kNone = -1;
  static uint64_t Edge(uint32_t node, char c) {
    return uint64_t{node} << 8 | static_cast<uint8_t>(c);
  }

  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // node 0 is the root
  std::vector<int32_t> values_{kNone};             // [nodes]
  std::array<bool, 256> is_first_{};
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_BYTE_TRIE_H_
