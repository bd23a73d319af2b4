#!/usr/bin/env bash
# Records where CPU time goes while `duramen bench` runs: perf/record.sh OUT [bench arguments …]
# Leaves OUT/perf.data, OUT/bench.txt and OUT/stacks.txt (perf script). Uses the software clock, so that it works in virtual machines.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 1 ] || { echo "usage: perf/record.sh OUT [arguments of \`duramen bench\`, default: --local 4]" >&2; exit 2; }
command -v perf >/dev/null || { echo "error: perf is missing: install linux-perf (Debian) or linux-tools (Ubuntu)" >&2; exit 1; }
out=$1; shift
[ $# -gt 0 ] || set -- --local 4
mkdir -p "$out"

# Frame pointers make whole stacks cheap to take.
RUSTFLAGS="-C force-frame-pointers=yes" cargo build --quiet --profile profiling --locked --target-dir target/profiling-build
bench=target/profiling-build/profiling/duramen
seconds=${PERF_SECONDS:-10}

"$bench" bench "$@" --dir "$out/cluster" --warmup 2 --duration "$((seconds + 2))" >"$out/bench.txt" &
pid=$!
trap 'kill "$pid" 2>/dev/null || true' EXIT
# The load is on when its line is there.
until grep -q '^load ' "$out/bench.txt" 2>/dev/null; do
    kill -0 "$pid" 2>/dev/null || { wait "$pid" || true; cat "$out/bench.txt" >&2; exit 1; }
    sleep 0.1
done
sleep 2
perf record --quiet -e cpu-clock -F 499 -g -a -o "$out/perf.data" -- sleep "$seconds"
wait "$pid"
trap - EXIT
rmdir "$out/cluster" 2>/dev/null || true
perf script -i "$out/perf.data" >"$out/stacks.txt" 2>/dev/null
cat "$out/bench.txt"
echo
echo "share of CPU samples by thread:"
perf report -i "$out/perf.data" --sort comm --no-children --stdio 2>/dev/null | grep -E '^ +[0-9]' | head -20
