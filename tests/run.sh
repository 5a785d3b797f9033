#!/usr/bin/env bash
# Everything the project checks, on a bare Debian 12: set-up, build, tests,
# sanitizers, fuzzing, format, lint, layers, documents. The last line is
# `N passed, N failed, N skipped`; exit 1 when anything failed.
# Usage: tests/run.sh [SUITE...]
#   opt     all tests, optimised, the slow ones and real models too
#   asan    base, transfer, router and the worker around the model, with address
#           and undefined-behaviour checks
#   tsan    those of them with threads, with the thread checker
#   fuzz    every fuzz target for 5 seconds on top of its corpus
#   checks  format, layers, documents
#   lint    clang-tidy of the product code
# No argument: all of them.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

all=(opt asan tsan fuzz checks lint)
chosen=("$@")
[ $# -gt 0 ] || chosen=("${all[@]}")
for name in "${chosen[@]}"; do
  [[ " ${all[*]} " == *" $name "* ]] && continue
  echo "tests/run.sh: unknown suite $name; there are ${all[*]}" >&2
  exit 64
done

./deploy/setup.sh >/dev/null || exit 1

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice
logs=build/test_logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0
bazel_flags=(--disk_cache="$cache/bazel" --color=no --curses=no
  --noshow_progress --show_result=0 --keep_going)

# count LOG: adds the test targets of a bazel log to the totals.
count() {
  local lines
  lines=$(grep -aE '^//[^ ]+ +(\(cached\) )?(PASSED|FLAKY|FAILED|TIMEOUT|NO STATUS|SKIPPED)' "$1")
  local p f s
  p=$(grep -acE ' (PASSED|FLAKY)' <<<"$lines")
  s=$(grep -acE ' SKIPPED' <<<"$lines")
  f=$(grep -acE ' (FAILED|TIMEOUT|NO STATUS)' <<<"$lines")
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# suite NAME ARGUMENTS...: one bazel test run, counted.
suite() {
  local name=$1
  shift
  echo "=== $name" >&2
  local begin=$SECONDS
  bazel test "${bazel_flags[@]}" "$@" >"$logs/$name.log" 2>&1
  local code=$?
  count "$logs/$name.log"
  grep -aE '^(//[^ ]+ .*(FAILED|TIMEOUT|NO STATUS)|ERROR|FAILED)' \
    "$logs/$name.log" | head -20
  if [ $code -ne 0 ]; then
    tail -60 "$logs/$name.log"
    # A build that broke before any test ran is a failure of its own.
    [ $code -eq 3 ] || failed=$((failed + 1))
  fi
  echo "=== $name: exit $code, $((SECONDS - begin)) s" >&2
}

# check NAME COMMAND...: one check that is not a bazel test.
check() {
  local name=$1
  shift
  echo "=== $name" >&2
  local begin=$SECONDS
  if "$@" >"$logs/$name.log" 2>&1; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    tail -40 "$logs/$name.log"
    echo "=== $name: FAILED" >&2
  fi
  echo "=== $name: $((SECONDS - begin)) s" >&2
}

run_opt() { suite opt --config=opt //...; }

run_asan() {
  suite asan --config=asan --config=ubsan --build_tests_only --test_timeout=600 \
    --test_tag_filters=-slow //tests/base/... //tests/kvtransfer/... \
    //tests/router/... //tests/worker/cache/... //tests/worker/engine/... \
    //tests/worker/handoff/... //tests/worker/server/...
}

# Debian's libraries are not instrumented; UCX's memory hooks crash inside the
# checker's own.
run_tsan() {
  suite tsan --config=tsan --build_tests_only --test_timeout=600 \
    --test_tag_filters=-slow \
    --test_env=TSAN_OPTIONS="ignore_noninstrumented_modules=1:report_thread_leaks=0:suppressions=$PWD/tests/tsan.supp" \
    --test_env=UCX_MEM_EVENTS=n --test_env=UCX_MEM_MMAP_HOOK_MODE=none \
    --test_env=UCX_MEM_MALLOC_HOOKS=n \
    //tests/base/... //tests/kernels:thread_pool_test //tests/kvtransfer/... \
    //tests/router/server/... //tests/worker/engine/... \
    //tests/worker/handoff/... //tests/worker/server/...
}

run_fuzz() {
  suite fuzz --config=fuzz --build_tests_only //tests/fuzz/...
}

run_checks() {
  check format tools/format.sh --check
  check layers python3 tools/check_layers.py
  check architecture python3 tools/check_architecture.py
}

run_lint() {
  check lint bazel build "${bazel_flags[@]}" --config=opt --config=lint \
    //base/... //kernels/... //kvtransfer/... //proto:sampling_check \
    //router/... //tools/... //worker/...
}

for name in "${chosen[@]}"; do "run_$name"; done

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
