// Sequences over a two-token alphabet come, compute, commit and leave in any
// order. Every block found by its hash must hold the tokens it stands for.

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/check.h"
#include "worker/cache/prefix_cache.h"

namespace sluice::worker {
namespace {

constexpr uint32_t kBlockTokens = 2;
constexpr uint32_t kUsable = 12;

struct Owner {
  std::vector<TokenId> tokens;
  HashChain chain;
  std::vector<BlockId> table;
  size_t committed = 0;
};

class World {
 public:
  World() : blocks_(kUsable + 1), cache_(&blocks_), content_(kUsable + 1) {}

  void Come(uint8_t bits, uint8_t salt) {
    const HashRoot root{std::string(32, 'f'), "", std::string(salt, 's')};
    Owner owner{.tokens = {},
                .chain = {RootHash(root), kBlockTokens},
                .table = {},
                .committed = 0};
    const uint32_t length = 1 + bits % 8;
    for (uint32_t i = 0; i < length; ++i) {
      owner.tokens.push_back(bits >> (i % 5) & 1);
    }
    owner.chain.Extend(owner.tokens);
    const auto hashes = absl::MakeConstSpan(owner.chain.hashes())
                            .first((length - 1) / kBlockTokens);
    owner.table = cache_.Match(hashes);
    owner.committed = owner.table.size();
    for (size_t i = 0; i < owner.table.size(); ++i) {
      SLUICE_CHECK(content_[owner.table[i]] == Prefix(owner, i, salt));
      blocks_.Ref(owner.table[i]);
    }
    const uint32_t need = (length + kBlockTokens - 1) / kBlockTokens -
                          static_cast<uint32_t>(owner.table.size());
    if (!blocks_.Allocate(need, owner.table).ok()) return Leave(owner);
    for (size_t i = owner.committed; i < owner.table.size(); ++i) {
      content_[owner.table[i]] = Prefix(owner, i, salt);
    }
    owners_.push_back(std::move(owner));
  }

  void Commit(size_t index) {
    if (owners_.empty()) return;
    Owner& owner = owners_[index % owners_.size()];
    if (owner.committed >= owner.chain.hashes().size()) return;
    BlockId& entry = owner.table[owner.committed];
    const BlockId own = entry;
    entry = cache_.Commit(own, owner.chain.hashes()[owner.committed]);
    SLUICE_CHECK(content_[entry] == content_[own]);
    if (entry != own) blocks_.Unref(own);
    ++owner.committed;
  }

  void LeaveAt(size_t index) {
    if (owners_.empty()) return;
    index %= owners_.size();
    Leave(owners_[index]);
    owners_.erase(owners_.begin() + static_cast<ptrdiff_t>(index));
  }

  void Reset() {
    cache_.Reset();
    // What stays with its owners is not offered for hashing again.
    for (Owner& owner : owners_) {
      owner.committed = owner.chain.hashes().size();
    }
  }

  void Check() {
    SLUICE_CHECK(blocks_.CheckInvariants().ok());
    SLUICE_CHECK(cache_.CheckInvariants().ok());
    std::map<BlockId, uint32_t> refs;
    for (const Owner& owner : owners_) {
      for (BlockId b : owner.table) ++refs[b];
    }
    for (BlockId b = 1; b <= kUsable; ++b) {
      SLUICE_CHECK(blocks_.refs(b) == refs[b]);
    }
    const PrefixCache::Changes changes = cache_.TakeChanges();
    if (changes.cleared) known_.clear();
    for (uint64_t hash : changes.stored) ++known_[hash];
    for (uint64_t hash : changes.removed) {
      SLUICE_CHECK(known_.erase(hash) == 1);
    }
    SLUICE_CHECK(known_.size() == cache_.size());
  }

 private:
  static std::string Prefix(const Owner& owner, size_t block, uint8_t salt) {
    std::string text(1, static_cast<char>(salt));
    for (size_t i = 0;
         i < (block + 1) * kBlockTokens && i < owner.tokens.size(); ++i) {
      text += owner.tokens[i] != 0 ? '1' : '0';
    }
    return text;
  }
  void Leave(Owner& owner) {
    for (; !owner.table.empty(); owner.table.pop_back()) {
      blocks_.Unref(owner.table.back());
    }
  }

  BlockAllocator blocks_;
  PrefixCache cache_;
  std::vector<std::string> content_;  // by block: salt and tokens so far
  std::vector<Owner> owners_;
  std::map<uint64_t, int> known_;  // what a router would know
};

void Fuzz(const uint8_t* data, size_t size) {
  World world;
  for (size_t i = 0; i + 1 < size; i += 2) {
    switch (data[i] % 8) {
      case 0:
      case 1:
      case 2:
        world.Come(data[i + 1], data[i] / 8 % 2);
        break;
      case 3:
      case 4:
        world.Commit(data[i + 1]);
        break;
      case 5:
      case 6:
        world.LeaveAt(data[i + 1]);
        break;
      case 7:
        if (data[i + 1] % 16 == 0) world.Reset();
        break;
    }
    world.Check();
  }
}

}  // namespace
}  // namespace sluice::worker

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::worker::Fuzz(data, size);
  return 0;
}
