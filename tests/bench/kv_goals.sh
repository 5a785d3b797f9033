#!/usr/bin/env bash
# The speed goals of KV transfers, measured here and now.
#
#   ./tests/bench/kv_goals.sh [--nixl PYTHON] [--mooncake PYTHON]
#
# Prints one JSON object a goal and last "N met, N missed, N not measured".
# Exit status 0: everything could be run, whatever the result. Without
# ucx_perftest (package ucx-utils) its rows are not measured, nor are those of
# NIXL and Mooncake without an interpreter that has them (kv_peers.py).
# Rows of one comparison are interleaved. KV_BENCH names a kv_bench that is
# built already, KV_ROUNDS the rounds (5). About a minute on a quiet machine.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
  echo "usage: $0 [--nixl PYTHON] [--mooncake PYTHON]" >&2
  exit 64
}
nixl= mooncake=
while [ $# -gt 0 ]; do
  [ -x "${2-}" ] && [ ! -d "$2" ] || usage
  case "$1" in
    --nixl) nixl=$2 ;;
    --mooncake) mooncake=$2 ;;
    *) usage ;;
  esac
  shift 2
done
rounds=${KV_ROUNDS:-5}
bench=${KV_BENCH:-}
if [ -z "$bench" ]; then
  bazel build --config=opt //tools:kv_bench >&2
  bench=$(bazel info --config=opt bazel-bin 2> /dev/null)/tools/kv_bench
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# 1. Copies of scattered blocks, floors and transfers in one run.
"$bench" --transports=shm --digests=off,append,offer --rounds="$rounds" \
  --put-floor > "$out/shm"

# 2. The stream, beside ucx_perftest's active messages over the same wire.
perftest() {  # message bytes, count
  local port=$((20000 + RANDOM % 20000)) server
  taskset -c 0 ucx_perftest -p $port -t ucp_am_bw -f > /dev/null 2>&1 &
  server=$!
  sleep 0.5
  UCX_TLS=tcp UCX_NET_DEVICES=lo timeout 60 taskset -c 1 ucx_perftest \
    127.0.0.1 -p $port -t ucp_am_bw -s "$1" -n "$2" -w 10 -f -v |
    awk -F, -v size="$1" 'NF > 5 { mb = $6 } END {
      if (mb > 0) printf "{\"row\":\"am_bw\",\"size\":%d,\"gb_per_s\":%.4f}\n",
                         size, mb * 1048576 / 1e9 }'
  kill $server 2> /dev/null || true
  wait $server 2> /dev/null || true
}
for ((r = 0; r < rounds; r++)); do
  if command -v ucx_perftest > /dev/null; then
    UCX_TLS=tcp UCX_NET_DEVICES=lo perftest 65536 4000 >> "$out/ucx" || true
    UCX_TLS=tcp UCX_NET_DEVICES=lo perftest 1048576 300 >> "$out/ucx" || true
  fi
  "$bench" --transports=ucx --digests=off,append --rounds=1 --pool-mib=128 \
    --sizes=65536,1048576 >> "$out/ucx"
done

# 3. Other libraries, each beside a transfer of the same moment.
peer() {  # library, interpreter, shapes
  local name=$1 python=$2
  shift 2
  timeout 180 "$python" tests/bench/kv_peers.py "$name" "$@" 2> /dev/null |
    grep '^{' >> "$out/peers" || true
}
for ((r = 0; r < rounds; r++)); do
  [ -z "$nixl" ] || peer nixl "$nixl" 4096:8192 65536:4096
  [ -z "$mooncake" ] || peer mooncake "$mooncake" 4096:1024 65536:256
  "$bench" --transports=shm --digests=append --rounds=1 --pool-mib=256 \
    --sizes=4096,65536 >> "$out/peers"
done

# 4. What a prompt waits for, what a quiet pair costs.
"$bench" --transports=shm --digests=append --rounds="$rounds" --exposed \
  > "$out/rest"
"$bench" --transports=shm --digests=append --idle >> "$out/rest"
"$bench" --transports=ucx --digests=append --idle >> "$out/rest"

python3 tests/bench/kv_goals.py "$out"
