#!/bin/bash
# What the C interface costs: the log through duramen_log_* beside fio, a C client beside `duramen bench`, a C service beside
# the same in Rust, each pair in turn.
#
#   tools/hosts/speed/figures.sh OUT [--rounds N] [--seconds S] [--only log,client,service,size] [--cold-build]
#
# OUT           a folder on the disk to measure, made if missing; what is printed goes to OUT/figures.txt, too
# --rounds      how often each pair is measured (3)
# --seconds     measured in each run of a cluster, after half a second (2)
# --only        some of the parts
# --cold-build  also times a build of the lean library in a fresh folder, on two cores: minutes
#
# Measures what is in target/release, or in the folder DURAMEN_RELEASE: `cargo build --release` first. A machine that orders 60,000
# operations per second writes 100 GB in all, of which up to 25 are there at a time. A figure counts only if nothing else runs.
set -u

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
release=${DURAMEN_RELEASE:-${CARGO_TARGET_DIR:-$root/target}/release}
rounds=3 seconds=2 parts=log,client,service,size cold=no
usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || usage
out=$1
shift
while [ $# -gt 0 ]; do
    case $1 in
    --rounds) rounds=${2:?--rounds N}; shift ;;
    --seconds) seconds=${2:?--seconds S}; shift ;;
    --only) parts=${2:?--only PARTS}; shift ;;
    --cold-build) cold=yes ;;
    *) usage ;;
    esac
    shift
done
case $rounds in '' | *[!0-9]* | 0) usage ;; esac

# --- the folder, and the end of it ---------------------------------------------------------------------------------------

mkdir -p "$out" || exit 1
out=$(cd "$out" && pwd)
work=$out/work-$$
mkdir "$work" "$work/values" || exit 1
duramen=$release/duramen bin=$work/bin
pids=()
stop_replicas() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
    pids=()
}
end() {
    trap - EXIT INT TERM
    stop_replicas
    rm -rf "$work"
}
trap end EXIT
trap 'exit 1' INT TERM

# Not by a pipe: what ends the script must end in it.
say() { printf '%s\n' "$*" | tee -a "$out/figures.txt"; }
fail() { say "FAIL: $*"; exit 1; }
: >"$out/figures.txt"

[ -x "$duramen" ] && [ -e "$release/libduramen.so" ] || fail "$release has no duramen: cargo build --release, then again"
make -s -C "$here/.." BUILD="$bin" DURAMEN_INCLUDE="${DURAMEN_INCLUDE:-$root/src/capi}" DURAMEN_LIB="$release" \
    "$bin/log_speed" "$bin/client_speed" "$bin/counter_host" || fail make
free_gb=$(df -P -B1000000000 "$out" | awk 'NR == 2 { print $4 }')
[ "$free_gb" -ge 30 ] || fail "$out has $free_gb GB free: 30 are needed"

# --- figures -----------------------------------------------------------------------------------------------------------------

# note NAME VALUE: one round's.
note() { echo "$2" >>"$work/values/$1"; }
# spread NAME [FORMAT]: median (least-most) of the rounds.
spread() {
    sort -g "$work/values/$1" | awk -v f="${2:-%.0f}" '{ v[NR] = $1 } END {
        m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
        printf f " (" f "-" f ")", m, v[1], v[NR] }'
}
# each NAME A OP B: NAME gets A - B or A / B of each round.
each() {
    paste "$work/values/$2" "$work/values/$4" | awk -v op="$3" '{ print op == "-" ? $1 - $2 : $1 / $2 }' >"$work/values/$1"
}
# verdict NAME at-most|at-least TARGET: of the median.
verdict() {
    spread "$1" %.6f | awk -v rule="$2" -v target="$3" '{
        met = rule == "at-most" ? $1 <= target : $1 >= target
        printf "target: %s %s: %s", rule == "at-most" ? "at most" : "at least", target, met ? "met" : "NOT met" }'
}
# in_turn ROUND A B: runs both, the first one first in every other round.
in_turn() { if [ $(($1 % 2)) = 1 ]; then $2; $3; else $3; $2; fi; }

say "duramen $("$duramen" --version | cut -d' ' -f2), commit $(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown): what the C interface costs"
say "machine   $(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(awk '/MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo) GiB, Linux $(uname -r)"
say "disk      $(df -P "$out" | awk 'NR == 2 { print $1 }'), $(df -PT "$out" | awk 'NR == 2 { print $2 }')"
say "load      $(cut -d' ' -f1-3 /proc/loadavg) when it began"
say "command   tools/hosts/speed/figures.sh OUT --rounds $rounds --seconds $seconds --only $parts; all figures: median (least-most) of the rounds, in turn"

# --- the log -------------------------------------------------------------------------------------------------------------------

fio_options=(--name=reference --filename="$work/fio.dat" --rw=write --direct=1 --sync=dsync --overwrite=1 --fallocate=none
    --size=512m --clat_percentiles=0 --lat_percentiles=1 --percentile_list=50:99 --output-format=terse --terse-version=3)
# fio_run NAME OPTIONS…: its p50 and p99 (us) and MB/s of what is on disk already.
fio_run() {
    local name=$1 line
    shift
    line=$(fio "${fio_options[@]}" "$@" 2>"$work/fio.err" | grep '^3;') || fail "fio: $(tail -1 "$work/fio.err")"
    note "$name-p50" "$(cut -d';' -f59 <<<"$line" | cut -d= -f2)"
    note "$name-p99" "$(cut -d';' -f60 <<<"$line" | cut -d= -f2)"
    note "$name-mb" "$(awk -F';' '{ print $48 * 1024 / 1e6 }' <<<"$line")"
}
# log_run NAME BYTES COUNT [OUTSTANDING [IO]]
log_run() {
    local name=$1 line
    shift
    line=$("$bin/log_speed" "$work" "$@") || fail "log_speed $*"
    note "$name-p50" "$(sed -n 's/.*p50 \([0-9.]*\) us.*/\1/p' <<<"$line")"
    note "$name-p99" "$(sed -n 's/.*p99 \([0-9.]*\) us.*/\1/p' <<<"$line")"
    note "$name-mb" "$(sed 's/.* \([0-9.]*\) MB.s$/\1/' <<<"$line")"
}

measure_log() {
    local round size count
    local fio=yes
    if ! command -v fio >/dev/null; then
        fio=no
        say "fio is not here, so the log stands alone: apt-get install fio"
    else
        # Written once, as segments are: a write then changes nothing but data.
        dd if=/dev/zero of="$work/fio.dat" bs=1M count=512 oflag=direct conv=fsync 2>/dev/null || fail "no 512 MiB for fio's file"
        say "fio       fio --rw=write --direct=1 --sync=dsync --ioengine=psync --bs=BYTES on 512 MiB of zeros; groups: --ioengine=io_uring --iodepth=4"
    fi
    say "log       log_speed OUT BYTES COUNT: append, wait until durable, one at a time; the record with its header fills BYTES"
    for ((round = 1; round <= rounds; round++)); do
        for size in 4096:2000 65536:1000 262144:400 1048576:200; do
            count=${size#*:} size=${size%:*}
            reference() { [ $fio = no ] || fio_run "fio-$size" --ioengine=psync --bs="$size" --number_ios="$count"; }
            ours() {
                log_run "log-$size" "$size" "$count"
                log_run "threads-$size" "$size" "$count" 1 threads
            }
            in_turn "$round" reference ours
        done
        reference() { [ $fio = no ] || fio_run fio-groups --ioengine=io_uring --iodepth=4 --bs=1m --number_ios=400; }
        ours() { log_run log-groups 1048576 400 8; }
        in_turn "$round" reference ours
    done
    for size in 4096 65536 262144 1048576; do
        say "append    $size bytes until durable: p50 $(spread "log-$size-p50") us, p99 $(spread "log-$size-p99") us; io = threads: p50 $(spread "threads-$size-p50") us, p99 $(spread "threads-$size-p99") us"
        [ $fio = yes ] || continue
        say "  fio     p50 $(spread "fio-$size-p50") us, p99 $(spread "fio-$size-p99") us"
        for way in log threads; do
            each above "$way-$size-p50" - "fio-$size-p50"
            each ratio "$way-$size-p50" / "fio-$size-p50"
            case $size in
            4096) judged=$(verdict above at-most 40) ;;
            65536) judged= ;;
            *) judged=$(verdict ratio at-most 1.10) ;;
            esac
            say "  p50     io = ${way/log/auto}: $(spread above %+.0f) us above fio's, $(spread ratio %.2f) of it${judged:+; }$judged"
        done
    done
    say "groups    1 MiB, 8 records not yet durable: $(spread log-groups-mb) MB/s"
    if [ $fio = yes ]; then
        each ratio log-groups-mb / fio-groups-mb
        say "  fio     $(spread fio-groups-mb) MB/s; ours over fio's $(spread ratio %.2f); $(verdict ratio at-least 0.90)"
        rm -f "$work/fio.dat"
    fi
}

# --- clusters ------------------------------------------------------------------------------------------------------------------

# The first of 2n ports in a row that nobody listens on, below those that the kernel gives out.
free_ports() {
    local first i tries
    for ((tries = 0; tries < 100; tries++)); do
        first=$((10000 + RANDOM % 20000))
        for ((i = 0; i < 2 * $1; i++)); do
            ! grep -qi "$(printf '^ *[0-9]*: [0-9A-F]*:%04X .* 0A ' $((first + i)))" /proc/net/tcp || break
        done
        [ "$i" -lt $((2 * $1)) ] || { echo "$first"; return; }
    done
    fail "no free ports"
}
# start NAME MODEL N PROGRAM…: a fresh cluster in $work/NAME, whose replicas are `PROGRAM… DIR I`; returns once all run.
start() {
    local name=$1 model=$2 n=$3 i tries
    shift 3
    "$duramen" init --dir "$work/$name" --model "$model" --replicas "$n" --listen "127.0.0.1:$(free_ports "$n")" \
        --log-max-mib 3072 >"$work/$name.init" 2>&1 || fail "init: $(tail -1 "$work/$name.init")"
    for ((i = 0; i < n; i++)); do
        "$@" "$work/$name" "$i" >"$work/$name-$i.out" 2>"$work/$name-$i.err" &
        pids+=($!)
        replicas[$name]="${replicas[$name]:-} $!"
    done
    for ((i = 0; i < n; i++)); do
        for ((tries = 0; tries < 600; tries++)); do
            ! grep -q ready "$work/$name-$i.out" || break
            kill -0 "${pids[${#pids[@]} - n + i]}" 2>/dev/null || fail "replica $i of $name: $(tail -1 "$work/$name-$i.err")"
            sleep 0.05
        done
        [ "$tries" -lt 600 ] || fail "replica $i of $name did not start within 30 s"
    done
}
declare -A replicas
rust_kv() { exec "$duramen" start --service kv --dir "$1" --replica "$2"; }
rust_null() { exec "$duramen" start --service null --dir "$1" --replica "$2"; }
c_null() { exec "$bin/counter_host" --replica "$1" "$2"; }

# What the replicas of a cluster executed (the one with most), and their ticks of a hundredth of a second of CPU.
executed() {
    "$duramen" status --json --dir "$work/$1" 2>/dev/null | grep -o '"requests_executed": *[0-9]*' | tr -dc '0-9\n' | sort -g | tail -1
}
ticks() { for pid in ${replicas[$1]}; do cut -d' ' -f14,15 "/proc/$pid/stat"; done | awk '{ sum += $1 + $2 } END { print sum }'; }
# load NAME CLUSTER COMMAND…: one run of a load. CPU: all processes, for an operation.
load() {
    local name=$1 cluster=$2 ticks_before executed_before rate p50 p99 client replica
    shift 2
    ticks_before=$(ticks "$cluster") executed_before=$(executed "$cluster")
    "$@" >"$work/load.out" 2>&1 || fail "$*: $(tail -1 "$work/load.out")"
    replica=$(awk "BEGIN { print ($(ticks "$cluster") - $ticks_before) * 1e4 / ($(executed "$cluster") - $executed_before) }")
    rate=$(awk '/^throughput/ { print $2 }' "$work/load.out")
    # Its first line tells of the disk.
    p50=$(sed -n '/^throughput\|^latency/s/.* p50 \([0-9.]*\) .*/\1/p' "$work/load.out")
    p99=$(sed -n '/^throughput\|^latency/s/.* p99 \([0-9.]*\) .*/\1/p' "$work/load.out")
    client=$(grep -o '[0-9.]* us/op' "$work/load.out" | head -1 | cut -d' ' -f1)
    note "$name-rate" "$rate"; note "$name-p50" "$p50"; note "$name-p99" "$p99"
    note "$name-cpu" "$(awk "BEGIN { print $replica + $client }")"
}
line() { echo "$(spread "$1-rate") ops/s, p50 $(spread "$1-p50" %.2f) p99 $(spread "$1-p99" %.2f) ms, CPU $(spread "$1-cpu" %.1f) us/op"; }
# compare C RUST: the lines and the ratios of two.
compare() {
    say "  C       $(line "$1")"
    say "  Rust    $(line "$2")"
    each ratio "$1-rate" / "$2-rate"
    each cpu-ratio "$1-cpu" / "$2-cpu"
    say "  C/Rust  throughput $(spread ratio %.3f), CPU $(spread cpu-ratio %.3f); $(verdict ratio at-least 0.95)"
}
bench() {
    local name=$1 cluster=$2
    shift 2
    load "$name" "$cluster" "$duramen" bench --dir "$work/$cluster" --value-size 4096 --duration "$seconds" --warmup 0.5 "$@"
}
# A new cluster's first load finds everything cold; it counts for nobody.
warm() {
    "$duramen" bench --dir "$work/$1" --value-size 4096 --duration 0.5 --warmup 0.5 "${@:2}" >"$work/load.out" 2>&1 || fail "bench: $(tail -1 "$work/load.out")"
}
drop() {
    stop_replicas
    rm -rf "${work:?}/$1" "$work/$1"-*
    unset "replicas[$1]"
}

measure_client() {
    local model n clients outstanding round
    for model in crash:3 byzantine:4; do
        n=${model#*:} model=${model%:*}
        # A session has up to 256 requests on their way, so one of 256 is what a client of the C interface can have. Eight of 100 are
        # eight sessions of one client in Rust, and eight clients in C, each with connections and signatures of its own.
        for shape in 1:256 8:100; do
            clients=${shape%:*} outstanding=${shape#*:}
            start kv $model "$n" rust_kv
            say "client    $model, n = $n, TLS, vote: kv, 4096 B, 10000 keys; $clients x $outstanding outstanding: client_speed, and duramen bench --dir, clients of one session in C, sessions of one client in Rust"
            warm kv --keys 10000
            c() {
                load "$model-$clients-c" kv "$bin/client_speed" "$work/kv" --value-size 4096 --keys 10000 \
                    --clients "$clients" --outstanding "$outstanding" --seconds "$seconds" --warmup 0.5
            }
            rust() { bench "$model-$clients-rust" kv --service kv --keys 10000 --clients "$clients" --outstanding "$outstanding"; }
            for ((round = 1; round <= rounds; round++)); do in_turn "$round" c rust; done
            compare "$model-$clients-c" "$model-$clients-rust"
            drop kv
        done
    done
}

measure_service() {
    local model n round
    for model in crash:3 byzantine:4; do
        n=${model#*:} model=${model%:*}
        start c-null $model "$n" c_null
        start rust-null $model "$n" rust_null
        say "service   $model, n = $n, TLS, vote: requests of 4096 B, empty replies; duramen bench --service null --clients 8 --outstanding 100 on counter_host --replica (to which such a request is no number) and on duramen start --service null"
        warm c-null --service null
        warm rust-null --service null
        c() { bench "service-$model-c" c-null --service null --clients 8 --outstanding 100; }
        rust() { bench "service-$model-rust" rust-null --service null --clients 8 --outstanding 100; }
        for ((round = 1; round <= rounds; round++)); do in_turn "$round" c rust; done
        compare "service-$model-c" "service-$model-rust"
        drop c-null
        drop rust-null
    done
}

# --- size and build --------------------------------------------------------------------------------------------------------------

mib() { stat -L -c %s "$1" | awk '{ printf "%.1f MiB", $1 / 1048576 }'; }
measure_size() {
    strip -o "$work/stripped.so" "$release/libduramen.so" || fail strip
    say "size      libduramen.so stripped: $(mib "$work/stripped.so"), as built: $(mib "$release/libduramen.so")"
    [ $cold = yes ] || return
    local begin
    command -v cargo >/dev/null || fail "no cargo for --cold-build"
    begin=$(date +%s%N)
    (cd "$root" && env -u CARGO_BUILD_JOBS cargo build --release --no-default-features --lib --locked -j2 --target-dir "$work/cold" \
        >"$work/cold.out" 2>&1) || fail "cargo build: $(tail -1 "$work/cold.out")"
    strip -o "$work/stripped.so" "$work/cold/release/libduramen.so" || fail strip
    say "cold      cargo build --release --no-default-features --lib -j2 in a fresh folder: $((($(date +%s%N) - begin) / 1000000000)) s; libduramen.so stripped: $(mib "$work/stripped.so")"
}

begin=$(date +%s)
for part in log client service size; do
    case ,$parts, in *,$part,*) measure_$part ;; esac
done
say "ended     after $(($(date +%s) - begin)) s, load $(cut -d' ' -f1-3 /proc/loadavg)"
