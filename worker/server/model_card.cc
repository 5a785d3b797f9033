#include "worker/server/model_card.h"

namespace sluice::worker {
namespace {

void FillVocabulary(const GgufVocabulary& vocabulary, v1::TokenizerCard* card) {
  card->set_kind("gguf");
  card->set_gguf_model(vocabulary.model);
  card->set_gguf_pre(vocabulary.pre);
  for (const std::string& token : vocabulary.tokens) card->add_tokens(token);
  card->mutable_scores()->Add(vocabulary.scores.begin(),
                              vocabulary.scores.end());
  card->mutable_token_types()->Add(vocabulary.token_types.begin(),
                                   vocabulary.token_types.end());
  for (const std::string& merge : vocabulary.merges) card->add_merges(merge);
  if (vocabulary.bos_id) card->set_bos_id(*vocabulary.bos_id);
  if (vocabulary.eos_id) card->set_eos_id(*vocabulary.eos_id);
  if (vocabulary.unk_id) card->set_unk_id(*vocabulary.unk_id);
  if (vocabulary.pad_id) card->set_pad_id(*vocabulary.pad_id);
  if (vocabulary.add_bos) card->set_add_bos(*vocabulary.add_bos);
  if (vocabulary.add_eos) card->set_add_eos(*vocabulary.add_eos);
  if (vocabulary.add_space_prefix) {
    card->set_add_space_prefix(*vocabulary.add_space_prefix);
  }
}

}  // namespace

v1::ModelCard MakeModelCard(const ModelCardArgs& args) {
  const ModelFiles& files = *args.files;
  v1::ModelCard card;
  card.set_model(files.name);
  card.set_model_digest(ToBytes(files.digest));
  card.set_numerics_id(args.numerics_id);
  card.set_max_context(args.max_context);
  card.set_vocab(files.vocab);
  card.set_architecture(files.architecture);
  card.set_chat_template(files.chat_template);
  card.set_generation_config_json(files.generation_config_json);
  for (const int32_t id : files.eos_ids) card.add_eos_token_ids(id);
  card.set_kv_hash_root_fingerprint(args.kv_fingerprint);
  card.set_block_tokens(args.block_tokens);
  v1::TokenizerCard* tokenizer = card.mutable_tokenizer();
  if (files.vocabulary.has_value()) {
    FillVocabulary(*files.vocabulary, tokenizer);
  } else {
    tokenizer->set_kind("tokenizer_json");
    tokenizer->set_tokenizer_json(files.tokenizer_json);
    tokenizer->set_tokenizer_config_json(files.tokenizer_config_json);
  }
  return card;
}

}  // namespace sluice::worker
