// Speed of SmolLM2's tokenizer on a text, on one thread, as one JSON object:
//
//   tokenizer_bench TEXT_FILE [ROUNDS]        (from the root of the tree)
//
// MB/s of encoding and of decoding token by token, best of the rounds, and a
// digest of the ids for comparison with tokenizer_peer.py.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "base/sha256.h"
#include "router/text/detokenizer.h"
#include "router/text/tokenizer.h"
#include "tests/router/text/golden_file.h"

namespace sluice::router {
namespace {

constexpr int kExitUsage = 64;

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin)
      .count();
}

int Measure(const std::string& text, int rounds) {
  const std::unique_ptr<Tokenizer> tokenizer = MakeGoodTokenizer(SmolLm2Spec());
  double encode_s = 1e9;
  double decode_s = 1e9;
  std::vector<int32_t> ids;
  for (int round = 0; round < rounds; ++round) {
    auto begin = std::chrono::steady_clock::now();
    const absl::StatusOr<Encoding> encoding = tokenizer->Encode(text, {});
    encode_s = std::min(encode_s, SecondsSince(begin));
    if (!encoding.ok()) {
      std::fprintf(stderr, "tokenizer_bench: %s\n",
                   encoding.status().ToString().c_str());
      return 1;
    }
    ids = encoding->ids;
    begin = std::chrono::steady_clock::now();
    Detokenizer detokenizer(tokenizer.get(), {});
    size_t bytes = 0;
    for (const int32_t id : ids) bytes += detokenizer.Feed(id).size();
    bytes += detokenizer.Finish().size();
    decode_s = std::min(decode_s, SecondsSince(begin));
    if (bytes != text.size()) {
      std::fprintf(stderr, "tokenizer_bench: decoded %zu bytes of %zu\n", bytes,
                   text.size());
      return 1;
    }
  }
  std::string listed;
  for (const int32_t id : ids) listed += std::to_string(id) + " ";
  const double mb = 1e-6 * static_cast<double>(text.size());
  std::printf(
      "{\"encode_mb_s\": %.3f, \"decode_mb_s\": %.3f, \"tokens\": %zu, "
      "\"ids_sha256\": \"%s\"}\n",
      mb / encode_s, mb / decode_s, ids.size(),
      ToHex(Sha256Of(listed)).c_str());
  return 0;
}

int Main(int argc, char** argv) {
  int rounds = 5;
  const bool counted = argc < 3 || absl::SimpleAtoi(argv[2], &rounds);
  if (argc < 2 || argc > 3 || !counted || rounds < 1) {
    std::fprintf(stderr, "usage: tokenizer_bench TEXT_FILE [ROUNDS]\n");
    return kExitUsage;
  }
  std::ifstream file(argv[1], std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file.good() || text.str().empty()) {
    std::fprintf(stderr, "tokenizer_bench: cannot read %s\n", argv[1]);
    return kExitUsage;
  }
  return Measure(text.str(), rounds);
}

}  // namespace
}  // namespace sluice::router

int main(int argc, char** argv) { return sluice::router::Main(argc, argv); }
