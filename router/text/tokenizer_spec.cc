#include "router/text/tokenizer_spec.h"

#include <cstring>

#include "absl/strings/string_view.h"

namespace sluice::router {
namespace {

void AddText(Sha256& hash, absl::string_view text) {
  hash.UpdateU32(static_cast<uint32_t>(text.size())).Update(text);
}

void AddTexts(Sha256& hash, const std::vector<std::string>& texts) {
  hash.UpdateU32(static_cast<uint32_t>(texts.size()));
  for (const std::string& text : texts) AddText(hash, text);
}

void AddInts(Sha256& hash, const std::vector<int32_t>& values) {
  hash.UpdateU32(static_cast<uint32_t>(values.size()));
  for (int32_t value : values) hash.UpdateU32(static_cast<uint32_t>(value));
}

}  // namespace

Sha256Digest DigestOf(const TokenizerSpec& spec) {
  Sha256 hash;
  AddText(hash, "sluice tokenizer 1");
  hash.UpdateU32(static_cast<uint32_t>(spec.kind));
  AddTexts(hash, spec.tokens);
  hash.UpdateU32(static_cast<uint32_t>(spec.scores.size()));
  for (float score : spec.scores) {
    uint32_t bits;
    std::memcpy(&bits, &score, sizeof(bits));
    hash.UpdateU32(bits);
  }
  AddInts(hash, spec.types);
  AddTexts(hash, spec.merges);
  AddText(hash, spec.pre);
  hash.UpdateU32(spec.add_bos).UpdateU32(spec.add_eos);
  hash.UpdateU32(spec.add_space_prefix);
  AddInts(hash, {spec.bos_id, spec.eos_id, spec.unk_id, spec.pad_id});
  AddInts(hash, spec.eos_ids);
  AddText(hash, spec.tokenizer_json);
  AddText(hash, spec.tokenizer_config_json);
  AddText(hash, spec.generation_config_json);
  return hash.Finish();
}

}  // namespace sluice::router
