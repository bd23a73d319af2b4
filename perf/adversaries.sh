#!/usr/bin/env bash
# Goodput of four replicas of which replica 0, the first leader, lies: perf/adversaries.sh OUT [NAME …]
# A row for each strategy (default: all), and its share of what the group does when nobody lies. Targets: half; under floods 30 %.
# DURAMEN_BIN: a binary built with `--features adversary`; SECONDS_EACH: measured in each run; PORT: the first of four free ones.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 1 ] || { echo "usage: perf/adversaries.sh OUT [NAME …]" >&2; exit 2; }
out=$1; shift
if [ -z "${DURAMEN_BIN:-}" ]; then
    cargo build --quiet --release --locked --features adversary --target-dir target/adversary-build
    DURAMEN_BIN=target/adversary-build/release/duramen
fi
seconds=${SECONDS_EACH:-6} port=${PORT:-7850}
mkdir -p "$out"
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    # The list that an unknown name is answered with.
    mapfile -t names < <("$DURAMEN_BIN" start --dir . --replica 0 --adversary '?' 2>&1 | awk '$2 ~ /^B[0-9]+$/ { print $1 }')
fi

pids=()
stop() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    pids=()
    rm -rf "$out/cluster"
}
trap stop EXIT

# Operations per second with this strategy; empty: none.
run() {
    "$DURAMEN_BIN" init --dir "$out/cluster" --listen "127.0.0.1:$port" >/dev/null
    for i in 0 1 2 3; do
        local lie=()
        [ "$i" != 0 ] || [ -z "$1" ] || lie=(--adversary "$1")
        "$DURAMEN_BIN" start --dir "$out/cluster" --replica "$i" "${lie[@]}" >"$out/replica-$i.out" 2>&1 &
        pids+=($!)
    done
    for i in 0 1 2 3; do
        until grep -q ready "$out/replica-$i.out"; do sleep 0.1; done
    done
    "$DURAMEN_BIN" bench --dir "$out/cluster" --warmup 4 --duration "$seconds" --value-size 1024 --write-limit-gb 6 \
        >"$out/bench.txt" 2>&1 || { cat "$out/bench.txt" >&2; exit 1; }
    rate=$(awk '/^throughput/ { print $2 }' "$out/bench.txt")
    stop
}

run ""
whole=$rate
printf '%-24s %10s %8s\n' strategy ops/s share
printf '%-24s %10.0f %7d%%\n' none "$whole" 100
for name in "${names[@]}"; do
    run "$name"
    printf '%-24s %10.0f %7.0f%%\n' "$name" "$rate" "$(awk "BEGIN { print 100 * $rate / ($whole > 0 ? $whole : 1) }")"
done
