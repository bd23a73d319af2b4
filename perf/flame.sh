#!/usr/bin/env bash
# Draws flamegraphs of a recording: perf/flame.sh OUT, after perf/record.sh OUT
# OUT/all.svg shows everything, OUT/THREAD.svg one stage: duramen-net, duramen-pool0, duramen-order, log, duramen-exec, …
set -euo pipefail

[ $# -eq 1 ] && [ -f "$1/stacks.txt" ] || { echo "usage: perf/flame.sh OUT, where perf/record.sh OUT has run" >&2; exit 2; }
command -v inferno-flamegraph >/dev/null || { echo "error: inferno is missing: cargo install inferno" >&2; exit 1; }
out=$1

inferno-collapse-perf <"$out/stacks.txt" >"$out/folded.txt" 2>/dev/null
inferno-flamegraph --title "all threads" <"$out/folded.txt" >"$out/all.svg"
# A folded stack begins with the name of its thread.
cut -d';' -f1 "$out/folded.txt" | sort -u | while read -r thread; do
    case $thread in
        duramen-*|log|log-segments|bench-pace) ;;
        *) continue ;;
    esac
    awk -v t="$thread" 'index($0, t ";") == 1' "$out/folded.txt" |
        inferno-flamegraph --title "$thread" >"$out/$thread.svg"
done
ls "$out"/*.svg
