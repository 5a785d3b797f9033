#!/usr/bin/env bash
# Runs a whole cluster on this machine: installs and builds what is missing,
# starts routers and workers on free loopback ports and sends one chat request.
#
#   --model PATH      GGUF file or Hugging Face folder (default: SmolLM2-135M)
#   --prompt TEXT     what to ask
#   --routers N --prefill N --decode N --mixed N     (default 1 1 1 0)
#   --kv auto|shm|ucx  how KV moves between workers  (default auto)
#   --threads N       compute threads of each worker (default: all it may use)
#   --router-arg=A --worker-arg=A    passed through, repeatable
#   --serve           stay up; a process that dies is restarted
#   --state FILE      with --serve: JSON of what runs, rewritten on a restart
#   --smoke           one request, no text: the exit code tells
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit 70

model='' prompt='Write one sentence about the sea.'
routers=1 prefill=1 decode=1 mixed=0 kv=auto threads=0
router_args=() worker_args=()
serve=0 smoke=0 state=''

say() { echo "local: $*" >&2; }
usage() { say "$*"; sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 64; }

while [ $# -gt 0 ]; do
  case "$1" in
    --model | --prompt | --routers | --prefill | --decode | --mixed | --kv | \
      --threads | --state)
      [ $# -ge 2 ] || usage "$1 needs a value"
      declare "${1#--}=$2"
      shift 2
      ;;
    --router-arg=*) router_args+=("${1#*=}"); shift ;;
    --worker-arg=*) worker_args+=("${1#*=}"); shift ;;
    --serve) serve=1; shift ;;
    --smoke) smoke=1; shift ;;
    *) usage "unknown argument $1" ;;
  esac
done
for name in routers prefill decode mixed threads; do
  [[ ${!name} =~ ^[0-9]+$ ]] || usage "--$name must be a number, got ${!name}"
done
case "$kv" in auto | shm | ucx) ;; *) usage "--kv must be auto, shm or ucx, got $kv" ;; esac
[ "$routers" -ge 1 ] || usage "--routers must be at least 1, got $routers"
if [ $((prefill > 0)) -ne $((decode > 0)) ] ||
  [ $((prefill + decode + mixed)) -eq 0 ]; then
  usage "need prefill and decode workers, or mixed ones: got $prefill, $decode, $mixed"
fi

cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice
if [ -n "$model" ]; then
  [ -e "$model" ] || usage "no such model: $model"
  model=$(realpath "$model")
  ./deploy/setup.sh --no-model || exit 70
else
  model=$(./deploy/setup.sh | tail -n 1) && [ -f "$model" ] || exit 70
fi
say 'building'
bazel build --disk_cache="$cache/bazel" --config=opt --color=no --curses=no \
  --noshow_progress --show_result=0 --ui_event_filters=-info \
  //router:sluice-router //worker:sluice-worker //tools:chat >&2 || exit 70
router_bin=$root/bazel-bin/router/sluice-router
worker_bin=$root/bazel-bin/worker/sluice-worker
chat_bin=$root/bazel-bin/tools/chat

work=$(mktemp -d)
declare -a used_ports=()
declare -a names=() commands=() pids=() restarts=() started=() kinds=() urls=()

# Sets `port` to a loopback port that nothing listens on or was given before.
free_port() {
  local hex
  while :; do
    port=$((20000 + RANDOM % 12000))
    [[ " ${used_ports[*]-} " == *" $port "* ]] && continue
    hex=$(printf '%04X' "$port")
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
      awk '{print $2}' | grep -q ":$hex\$" && continue
    used_ports+=("$port")
    return
  done
}

# add KIND NAME PORTS... : plans one process (ports: http, grpc, metrics, probe)
add() {
  local index=${#names[@]}
  kinds[index]=$1 names[index]=$2 urls[index]="${*:3}"
  pids[index]=0 restarts[index]=0 started[index]=0
}

start() {
  local index=$1 http grpc metrics probe other args
  read -r http grpc metrics probe <<<"${urls[index]}"
  args=(--server.grpc_address="127.0.0.1:$grpc"
    --server.metrics_address="127.0.0.1:$metrics"
    --server.probe_address="127.0.0.1:$probe"
    --instance="${names[index]}")
  if [ "${kinds[index]}" = router ]; then
    args=("$router_bin" "${args[@]}" --server.http_address="127.0.0.1:$http")
    for other in "${!names[@]}"; do
      [ "${kinds[other]}" = router ] && continue
      read -r _ grpc _ _ <<<"${urls[other]}"
      args+=(--workers.static="127.0.0.1:$grpc")
    done
    args+=("${router_args[@]}")
  else
    args=("$worker_bin" "${args[@]}" --role="${kinds[index]}"
      --model.path="$model" --kv.transport="$kv" --cpu.threads="$threads"
      --kv.memory_bytes="$kv_bytes")
    for other in "${!names[@]}"; do
      case "${kinds[index]}-${kinds[other]}" in
        prefill-decode | decode-prefill)
          read -r _ grpc _ _ <<<"${urls[other]}"
          args+=(--kv.peers="127.0.0.1:$grpc")
          ;;
      esac
    done
    args+=("${worker_args[@]}")
  fi
  "${args[@]}" >>"$work/${names[index]}.log" 2>&1 &
  pids[index]=$!
  started[index]=$SECONDS
}

stop_all() {
  local index signal=${1:-TERM}
  for index in "${!pids[@]}"; do
    [ "${pids[index]}" -gt 0 ] && kill "-$signal" "${pids[index]}" 2>/dev/null
  done
}

finish() {
  local code=$?
  trap 'stop_all KILL; exit 130' INT
  trap - EXIT
  stop_all TERM
  wait 2>/dev/null
  [ $code -eq 0 ] || [ "$smoke" -eq 0 ] || tail -n 20 "$work"/*.log >&2
  if [ "$serve" -eq 0 ]; then rm -rf "$work"; else say "logs: $work"; fi
  [ -z "$state" ] || rm -f "$state"
  exit $code
}
trap finish EXIT
trap 'exit 0' INT TERM

# Each worker gets an eighth of what is free for its KV pool, 1 GiB at most.
available=$(awk '/MemAvailable/ {print $2 * 1024}' /proc/meminfo)
kv_bytes=$(awk -v a="$available" 'BEGIN {
  b = a / 8; if (b > 1073741824) b = 1073741824; printf "%d", b }')

for ((i = 0; i < prefill; ++i)); do
  ports=(0); for _ in 1 2 3; do free_port; ports+=("$port"); done
  add prefill "prefill-$i" "${ports[@]}"
done
for ((i = 0; i < decode; ++i)); do
  ports=(0); for _ in 1 2 3; do free_port; ports+=("$port"); done
  add decode "decode-$i" "${ports[@]}"
done
for ((i = 0; i < mixed; ++i)); do
  ports=(0); for _ in 1 2 3; do free_port; ports+=("$port"); done
  add mixed "mixed-$i" "${ports[@]}"
done
for ((i = 0; i < routers; ++i)); do
  ports=(); for _ in 1 2 3 4; do free_port; ports+=("$port"); done
  add router "router-$i" "${ports[@]}"
done

for index in "${!names[@]}"; do start "$index"; done

# Waits until process INDEX answers ready; fails when it dies or 120 s passed.
wait_ready() {
  local index=$1 probe deadline=$((SECONDS + 120))
  read -r _ _ _ probe <<<"${urls[index]}"
  until curl -sf -o /dev/null -m 2 "http://127.0.0.1:$probe/readyz"; do
    if ! kill -0 "${pids[index]}" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
      say "${names[index]} did not become ready:"
      tail -n 20 "$work/${names[index]}.log" >&2
      return 1
    fi
    sleep 0.05
  done
}

say "starting ${names[*]}"
for index in "${!names[@]}"; do wait_ready "$index" || exit 70; done
# Workers report every 200 ms: now every router has heard that links are up.
sleep 0.3

first_router=$((${#names[@]} - routers))
read -r http grpc _ _ <<<"${urls[first_router]}"
model_name=$(curl -s "http://127.0.0.1:$http/v1/models" |
  sed -n 's/.*"id":"\([^"]*\)".*/\1/p')

write_state() {
  local index separator http grpc metrics probe
  {
    printf '{"routers": ['
    separator=''
    for index in "${!names[@]}"; do
      [ "${kinds[index]}" = router ] || continue
      read -r http grpc metrics probe <<<"${urls[index]}"
      printf '%s{"pid": %d, "http": "http://127.0.0.1:%d", "grpc": "127.0.0.1:%d", "metrics": "http://127.0.0.1:%d/metrics", "probe": "http://127.0.0.1:%d"}' \
        "$separator" "${pids[index]}" "$http" "$grpc" "$metrics" "$probe"
      separator=', '
    done
    printf '], "workers": ['
    separator=''
    for index in "${!names[@]}"; do
      [ "${kinds[index]}" = router ] && continue
      read -r _ grpc metrics probe <<<"${urls[index]}"
      printf '%s{"pid": %d, "role": "%s", "instance": "%s", "grpc": "127.0.0.1:%d", "metrics": "http://127.0.0.1:%d/metrics", "probe": "http://127.0.0.1:%d"}' \
        "$separator" "${pids[index]}" "${kinds[index]}" "${names[index]}" \
        "$grpc" "$metrics" "$probe"
      separator=', '
    done
    printf '], "model": "%s"}\n' "$model_name"
  } >"$state.new" && mv "$state.new" "$state"
}

if [ "$smoke" -eq 1 ]; then
  "$router_bin" --smoke="127.0.0.1:$http" --smoke.grpc="127.0.0.1:$grpc" &&
    "$chat_bin" --address="127.0.0.1:$grpc" --prompt="$prompt"
  exit
fi
if [ "$serve" -eq 0 ]; then
  "$chat_bin" --address="127.0.0.1:$grpc" --prompt="$prompt"
  exit
fi

[ -z "$state" ] || write_state
echo "http: http://127.0.0.1:$http  grpc: 127.0.0.1:$grpc  model: $model_name"
echo "curl -N http://127.0.0.1:$http/v1/chat/completions -H 'Content-Type: application/json' -d '{\"model\":\"$model_name\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}'"

# Restarts what dies: at once, then after 1, 2, 4 ... 30 s; a process that lived
# a minute starts from zero again.
declare -a restart_at=()
while :; do
  for index in "${!names[@]}"; do
    if [ "${pids[index]}" -gt 0 ] && ! kill -0 "${pids[index]}" 2>/dev/null; then
      wait "${pids[index]}"
      code=$?
      pids[index]=0
      [ $((SECONDS - started[index])) -lt 60 ] || restarts[index]=0
      pause=0
      [ "${restarts[index]}" -eq 0 ] || pause=$((1 << (restarts[index] - 1)))
      [ $pause -le 30 ] || pause=30
      restarts[index]=$((restarts[index] + 1))
      restart_at[index]=$((SECONDS + pause))
      say "${names[index]} ended with $code; restart in $pause s"
    fi
    if [ "${pids[index]}" -eq 0 ] && [ $SECONDS -ge "${restart_at[index]}" ]; then
      start "$index"
      [ -z "$state" ] || write_state
    fi
  done
  sleep 0.2
done
