#ifndef TESTS_ROUTER_TEXT_GOLDEN_FILE_H_
#define TESTS_ROUTER_TEXT_GOLDEN_FILE_H_

#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "router/text/tokenizer.h"
#include "router/text/tokenizer_spec.h"

namespace sluice::router {

// Files of tests/golden; a missing or broken one ends the test process.
std::string ReadGolden(const std::string& name);
nlohmann::json ReadGoldenJson(const std::string& name);
std::vector<nlohmann::json> ReadGoldenLines(const std::string& name);

// The tokenizer metadata of SmolLM2-135M-Instruct's GGUF file.
TokenizerSpec SmolLm2Spec();
// A tokenizer of tests/golden/tokenizers, without config files.
TokenizerSpec JsonSpec(const std::string& name);
// The tokenizer of a spec that is known to be good.
std::unique_ptr<Tokenizer> MakeGoodTokenizer(const TokenizerSpec& spec);

}  // namespace sluice::router

#endif  // TESTS_ROUTER_TEXT_GOLDEN_FILE_H_
