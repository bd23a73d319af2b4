#!/usr/bin/env bash
# Time from the start of a replica's process until it is ready, with a checkpoint and a log behind it: perf/restart.sh OUT [ROUNDS]
# Three replicas (crash) with 250,000 keys of 4 kB; they write on until replica 0 has two checkpoints and LOG_MIB of log behind the
# newer one; it is killed with SIGKILL and started again ROUNDS times (default 5), with the page cache as it is and, as root, dropped.
# DURAMEN_BIN; LOG_MIB (default 1024); PERIOD, places between two checkpoints (default 3300: about 1.3 of them is 1 GiB);
# BENCH, arguments of the load (default: paper-4k); PORT: the first of three free ones.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 1 ] || { echo "usage: perf/restart.sh OUT [ROUNDS]" >&2; exit 2; }
out=$1 rounds=${2:-5} log_mib=${LOG_MIB:-1024} port=${PORT:-7840} period=${PERIOD:-3300}
if [ -z "${DURAMEN_BIN:-}" ]; then
    cargo build --quiet --release --locked
    DURAMEN_BIN=target/release/duramen
fi
[ ! -e "$out/cluster" ] || { echo "$out/cluster is there already" >&2; exit 2; }
mkdir -p "$out"

pids=() bench=
stop() {
    [ -z "$bench" ] || kill "$bench" 2>/dev/null || true
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    rm -rf "$out/cluster"
}
trap stop EXIT

start() {
    : >"$out/replica-$1.out"
    "$DURAMEN_BIN" start --dir "$out/cluster" --replica "$1" >"$out/replica-$1.out" 2>"$out/replica-$1.err" &
    pids[$1]=$!
}
ready() {
    until grep -q ready "$out/replica-$1.out"; do
        kill -0 "${pids[$1]}" 2>/dev/null || { cat "$out/replica-$1.err" >&2; exit 1; }
        sleep 0.01
    done
}
# What replica 0, the first in the list, says of its checkpoints and its log.
kept() { grep -o '"kept":\[[0-9]*,[0-9]*\]' "$out/status.json" | head -1; }
written() { grep -o '"log":{[^}]*}' "$out/status.json" | head -1 | grep -o '"bytes":[0-9]*' | grep -o '[0-9]*$'; }

"$DURAMEN_BIN" init --dir "$out/cluster" --model crash --listen "127.0.0.1:$port" --checkpoint-period "$period" >/dev/null
# What no replica needs any more is not kept for one that might.
sed -i 's/^\[checkpoint\]$/&\nlog_keep_mib = 0/' "$out/cluster/cluster.toml"
grep -q '^log_keep_mib = 0' "$out/cluster/cluster.toml"
for i in 0 1 2; do start $i; done
for i in 0 1 2; do ready $i; done
# shellcheck disable=SC2086
"$DURAMEN_BIN" bench --dir "$out/cluster" ${BENCH:---workload paper-4k} --duration 600 --write-limit-gb 40 >"$out/bench.txt" 2>&1 &
bench=$!
newest= at=0
while :; do
    sleep 0.1
    kill -0 "$bench" 2>/dev/null || { cat "$out/bench.txt" >&2; exit 1; }
    "$DURAMEN_BIN" status --dir "$out/cluster" --json >"$out/status.json" 2>/dev/null || continue
    now=$(kept || true)
    [ -n "$now" ] || continue
    [ "$now" = "$newest" ] || { newest=$now at=$(written); }
    mib=$((($(written) - at) >> 20))
    [ "$mib" -lt "$log_mib" ] || break
done
kill -9 "${pids[0]}"
kill "$bench"
wait "$bench" 2>/dev/null || true
bench=
size() { du -sm --apparent-size "$@" 2>/dev/null | awk '{ s += $1 } END { print s }'; }
echo "commit $(git rev-parse --short HEAD), $(nproc) cores, $(uname -r), $(stat -f -c %T "$out")"
echo "checkpoints at places ${newest#*:}; behind the newer one $mib MiB of log; on disk: $(size "$out"/cluster/replica-0/*checkpoint*) MiB of checkpoints, $(size "$out"/cluster/replica-0/log*) MiB of log segments"
for cache in kept dropped; do
    for ((round = 1; round <= rounds; round++)); do
        if [ $cache = dropped ]; then
            sync
            { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null || { echo "page cache not dropped: not root"; break 2; }
        fi
        began=$(date +%s%N)
        start 0
        ready 0
        echo "page cache $cache, round $round: ready after $((($(date +%s%N) - began) / 1000000)) ms"
        kill -9 "${pids[0]}"
        wait "${pids[0]}" 2>/dev/null || true
    done
done
