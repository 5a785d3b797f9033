#ifndef TOOLS_LOAD_REPORT_H_
#define TOOLS_LOAD_REPORT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/load_exchange.h"

namespace sluice {

// One streamed completion, read from what the client saw. Times are seconds.
struct LoadOutcome {
  double start_s = 0;  // since the load began
  double end_s = 0;
  std::vector<double> pieces_s;  // when each piece of text was there
  int64_t prompt_tokens = 0;     // as the server counts; 0: it did not say
  int64_t tokens = 0;            // generated; without a count, the pieces
  std::string error;             // empty: a whole stream of the asked length
};

// Reads the server-sent events of `exchange`. A status other than 200, an
// event with an error, one that is not JSON, a stream that broke off or lacks
// its `[DONE]`, and a number of tokens other than `asked_tokens` are errors.
LoadOutcome ReadLoadOutcome(const LoadExchange& exchange,
                            LoadExchange::Time begin, int asked_tokens);

struct LoadRun {
  std::vector<LoadOutcome> outcomes;  // in the order in which they ended
  double wall_s = 0;
  int asked_tokens = 0;
  int clients = 0;
  uint64_t seed = 0;
  double window_s = 60;  // of window_tok_s
  double cpu_s = 0;      // of the client
};

// The figures of a run; only good requests count, but for `errors`.
//   out_tok_s    generated tokens over the wall time of the whole load
//   ttft_ms      send to first piece of text
//   itl_ms       gaps between pieces, all streams pooled; max_gap_ms the worst
//   tpot_ms      (last - first piece) / (tokens - 1), per request
//   e2e_ms       send to last byte
//   window_tok_s tokens per second in each whole window of the load, for
//                whether a long load slows down
// A figure that nothing was measured for is null.
nlohmann::ordered_json LoadReport(const LoadRun& run);

}  // namespace sluice

#endif  // TOOLS_LOAD_REPORT_H_
