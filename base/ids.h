#ifndef BASE_IDS_H_
#define BASE_IDS_H_

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <utility>

namespace sluice {

// An integer that is an id of one kind only:
//   using BlockId = StrongId<struct BlockIdTag, uint32_t>;
// Ordered, hashable by std and Abseil containers, printable; no arithmetic.
template <typename Tag, typename Rep = uint64_t>
class StrongId {
 public:
  using rep = Rep;

  constexpr StrongId() = default;  // 0
  constexpr explicit StrongId(Rep value) : value_(value) {}

  constexpr Rep value() const { return value_; }

  friend constexpr auto operator<=>(StrongId, StrongId) = default;

  template <typename H>
  friend H AbslHashValue(H state, StrongId id) {
    return H::combine(std::move(state), id.value_);
  }
  friend std::ostream& operator<<(std::ostream& out, StrongId id) {
    return out << std::to_string(id.value_);
  }

 private:
  Rep value_{};
};

}  // namespace sluice

template <typename Tag, typename Rep>
struct std::hash<sluice::StrongId<Tag, Rep>> {
  size_t operator()(sluice::StrongId<Tag, Rep> id) const {
    return std::hash<Rep>()(id.value());
  }
};

#endif  // BASE_IDS_H_
