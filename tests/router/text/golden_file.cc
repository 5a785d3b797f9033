#include "tests/router/text/golden_file.h"

#include <cstdio>
#include <fstream>
#include <sstream>
#include <utility>

#include "base/check.h"
#include "router/text/tokenizer_factory.h"

namespace sluice::router {

std::string ReadGolden(const std::string& name) {
  std::ifstream file("tests/golden/" + name, std::ios::binary);
  SLUICE_CHECK(file.good());
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

nlohmann::json ReadGoldenJson(const std::string& name) {
  return nlohmann::json::parse(ReadGolden(name));
}

std::vector<nlohmann::json> ReadGoldenLines(const std::string& name) {
  std::istringstream text(ReadGolden(name));
  std::vector<nlohmann::json> rows;
  for (std::string line; std::getline(text, line);) {
    rows.push_back(nlohmann::json::parse(line));
  }
  SLUICE_CHECK(!rows.empty());
  return rows;
}

TokenizerSpec SmolLm2Spec() {
  const nlohmann::json data = ReadGoldenJson("smollm2_tokenizer_data.json");
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kBpe;
  spec.tokens = data["tokens"].get<std::vector<std::string>>();
  spec.merges = data["merges"].get<std::vector<std::string>>();
  spec.types.assign(spec.tokens.size(), 1);
  for (const auto& entry : data["types"].items()) {
    spec.types.at(std::stoul(entry.key())) = entry.value().get<int32_t>();
  }
  spec.pre = data["pre"].get<std::string>();
  spec.add_bos = data["add_bos"].get<bool>();
  spec.bos_id = data["bos_id"].get<int32_t>();
  spec.eos_id = data["eos_id"].get<int32_t>();
  spec.unk_id = data["unk_id"].get<int32_t>();
  spec.pad_id = data["pad_id"].get<int32_t>();
  return spec;
}

TokenizerSpec JsonSpec(const std::string& name) {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kTokenizerJson;
  spec.tokenizer_json = ReadGolden("tokenizers/" + name);
  return spec;
}

std::unique_ptr<Tokenizer> MakeGoodTokenizer(const TokenizerSpec& spec) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = MakeTokenizer(spec);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
  }
  SLUICE_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

}  // namespace sluice::router
