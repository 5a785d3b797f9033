#ifndef ROUTER_CLUSTER_SERVED_MODEL_H_
#define ROUTER_CLUSTER_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/worker.pb.h"
#include "router/text/chat_template.h"
#include "router/text/tokenizer.h"

namespace sluice::router {

// What the model's own generation config sets; unset: the file is silent.
struct GenerationDefaults {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int32_t> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
};

// One model as its workers' cards describe it: names, limits, tokenizer and
// chat template. Immutable after FromCard(), so every method is thread-safe.
// Two models are the same if their digests are.
class ServedModel {
 public:
  // kInvalidArgument: the card is not one this build can serve; says why.
  static absl::StatusOr<std::shared_ptr<const ServedModel>> FromCard(
      const v1::ModelCard& card);

  const std::string& name() const { return name_; }
  // SHA-256 of the model's files, 32 bytes.
  const std::string& digest() const { return digest_; }
  uint32_t max_context() const { return max_context_; }  // tokens
  uint32_t vocab() const { return vocab_; }
  const std::string& architecture() const { return architecture_; }
  const GenerationDefaults& defaults() const { return defaults_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  // Null: the model has none.
  const ChatTemplate* chat_template() const { return template_.get(); }

  // kInvalidArgument: not UTF-8, or a template that needs what is not there.
  absl::StatusOr<Encoding> Tokenize(absl::string_view text,
                                    EncodeOptions options) const {
    return tokenizer_->Encode(text, options);
  }
  // Text of `ids`, special tokens included; bytes that are no UTF-8 become
  // U+FFFD. kInvalidArgument: an id outside the vocabulary.
  absl::StatusOr<std::string> Detokenize(absl::Span<const uint32_t> ids) const;
  // The prompt text of `chat`, to be tokenised with parse_special.
  // kInvalidArgument: malformed chat, the template refuses it, or the model
  // has no template.
  absl::StatusOr<std::string> RenderChat(const ChatInput& chat) const;

 private:
  ServedModel() = default;

  std::string name_;
  std::string digest_;
  std::string architecture_;
  uint32_t max_context_ = 0;
  uint32_t vocab_ = 0;
  GenerationDefaults defaults_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const ChatTemplate> template_;
};

}  // namespace sluice::router

#endif  // ROUTER_CLUSTER_SERVED_MODEL_H_
