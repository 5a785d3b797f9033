#!/usr/bin/env bash
# The goals for speed, measured on this machine beside the peers given: one JSON
# line for each, then `N met, N missed, N not measured`.
#
#   tests/bench/goals.sh [--llama BIN_DIR] [--vllm URL] [--rows 1,2,A3]
#
#   --llama BIN_DIR    llama-bench, llama-batched-bench and llama-server
#   --ik-llama BIN_DIR llama-bench of ik_llama.cpp (row 1)
#   --vllm URL         a vLLM server that serves r1b in BF16
#   --onednn DIR       include/ and lib/ of oneDNN (row 7)
#   --tokenizers PYTHON  an interpreter with Hugging Face `tokenizers` (row 14)
#   --rows LIST        only these rows (default: all of this kind of machine)
#   --models DIR       r1b-{q4_0,q8_0,bf16,q6_k,q4_k}.gguf (default build/models)
#   --rounds N         rounds of each comparison (default 5)
#   --threads N        compute threads (default: all it may use)
#   --bin DIR          binaries built before, instead of building them
#   --quick            one round of tiny counts: shows that everything runs
#
# docs/benchmarks.md says how the models and the peers are made. What lacks one
# is "not measured", with the reason. Exit codes: 0 measured, whatever the
# result, 64 usage, 70 cannot build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

for arg in "$@"; do
  case "$arg" in
    -h | --help) sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
  esac
done

export PYTHONDONTWRITEBYTECODE=1
python3 tests/bench/goals.py --check "$@" || exit 64
model=$(./deploy/setup.sh | tail -n 1) || exit 70
if [[ " $* " != *" --bin"[\ =]* ]]; then
  bazel build --disk_cache="${XDG_CACHE_HOME:-$HOME/.cache}/sluice/bazel" \
    --config=opt --color=no --curses=no --noshow_progress --show_result=0 \
    --ui_event_filters=-info //router:sluice-router //worker:sluice-worker \
    //tools:model_bench //tools:load_bench //tests/bench:limits \
    //tests/bench:matmul_bench //tests/bench:sample_bench \
    //tests/bench:tokenizer_bench >&2 || exit 70
fi
exec python3 tests/bench/goals.py --small-model "$model" "$@"
