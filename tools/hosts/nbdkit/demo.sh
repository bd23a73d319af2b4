#!/bin/bash
# A disk kept by four replicas, as a network block device, under faults: fio's verification must stay clean, copies must
# be equal, and a file system with a database on it must be whole. Prints figures, and PASS or FAIL; ends within minutes.
#
#   tools/hosts/nbdkit/demo.sh [--dir DIR] [--no-build] [--quick] [--keep]
#
# --dir       where the cluster's fresh folder goes, on a real disk; the current folder if left out
# --no-build  takes target/release as it is
# --quick     shorter measurements
# --keep      leaves the folder
set -u

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/release
base=. build=yes seconds=5 keep=no
while [ $# -gt 0 ]; do
    case $1 in
    --dir) base=${2:?--dir DIR}; shift ;;
    --no-build) build=no ;;
    --quick) seconds=2 ;;
    --keep) keep=yes ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done

# --- what has to be there -------------------------------------------------------------------------------------------

missing=
need() { command -v "$1" >/dev/null || missing="$missing $2"; }
need cc gcc
need make make
need pkg-config pkg-config
need nbdkit nbdkit
need fio fio
need nbdcopy libnbd-bin
need qemu-img qemu-utils
pkg-config --exists nbdkit 2>/dev/null || missing="$missing nbdkit-plugin-dev"
if [ -n "$missing" ]; then
    echo "missing; on Debian: apt-get install$(echo "$missing" | tr ' ' '\n' | sort -u | tr '\n' ' ')" >&2
    exit 2
fi
if ! fio --enghelp | grep -q '^[[:space:]]*nbd$'; then
    echo "this fio has no nbd engine (built without libnbd); Debian's has" >&2
    exit 2
fi

# --- the folder, the end of it, and what is said ----------------------------------------------------------------------

n=4 size=$((512 << 20))
begin=$(date +%s%N)
dir=$(cd "$base" && pwd)/duramen-nbdkit-demo-$$
cluster=$dir/cluster
mkdir "$dir" || exit 1
# A socket's path has room for 107 bytes.
sockets=$(mktemp -d /tmp/duramen-nbd-XXXXXX)
socket=$sockets/nbd.sock uri="nbd+unix:///?socket=$socket"
pids=() nbdkit_pid= fuse_pid= mounted= result=FAIL

say() { printf '[%5.1f s] %-11s %s\n' "$(($(date +%s%N) / 1000000 - begin / 1000000))e-3" "$1" "$2"; }
fail() { say FAIL "$*"; exit 1; }

end() {
    trap - EXIT INT TERM
    [ -z "$mounted" ] || umount "$dir/mnt" 2>/dev/null
    [ -z "$fuse_pid" ] || { fusermount3 -u "$dir/fuse" 2>/dev/null; wait "$fuse_pid" 2>/dev/null; }
    [ -z "$nbdkit_pid" ] || { kill "$nbdkit_pid" 2>/dev/null; wait "$nbdkit_pid" 2>/dev/null; }
    for i in "${!pids[@]}"; do kill "${pids[$i]}" 2>/dev/null; done
    for i in "${!pids[@]}"; do wait "${pids[$i]}" 2>/dev/null; done
    rm -rf "$sockets"
    if [ $keep = no ] && [ $result = PASS ]; then rm -rf "$dir"; else say kept "$dir"; fi
    [ $result = PASS ] && exit 0
    echo FAIL
    exit 1
}
trap end EXIT
trap 'say stopped "by a signal"; exit 1' INT TERM

if [ $build = yes ]; then
    (cd "$root" && cargo build --release) || fail "cargo build --release"
fi
[ -x "$target/duramen" ] && [ -e "$target/libduramen.so" ] || fail "$target has no duramen: leave --no-build out"
make -s -C "$here/.." BUILD="$dir/bin" DURAMEN_INCLUDE="${DURAMEN_INCLUDE:-$root/src/capi}" DURAMEN_LIB="$target" all || fail make
duramen=$target/duramen

# --- replicas -----------------------------------------------------------------------------------------------------------

# start I [--lie KIND]: returns once it runs.
start() {
    local i=$1 program=block_replica
    shift
    [ $# -eq 0 ] || program=block_replica_liar
    : >"$dir/replica-$i.out"
    "$dir/bin/$program" "$cluster" "$i" --size "$size" "$@" >>"$dir/replica-$i.out" 2>>"$dir/replica-$i.err" &
    pids[$i]=$!
}
started() {
    local i tries
    for i in "$@"; do
        for ((tries = 0; tries < 600; tries++)); do
            grep -q runs "$dir/replica-$i.out" && break
            kill -0 "${pids[$i]}" 2>/dev/null || fail "replica $i: $(tail -1 "$dir/replica-$i.err")"
            sleep 0.05
        done
        [ "$tries" -lt 600 ] || fail "replica $i did not start within 30 s"
    done
}
kill_hard() {
    local i
    for i in "$@"; do kill -9 "${pids[$i]}"; done
    for i in "$@"; do wait "${pids[$i]}" 2>/dev/null; unset "pids[$i]"; done
}
stop() { kill "${pids[$1]}"; wait "${pids[$1]}" || fail "replica $1 did not stop cleanly"; unset "pids[$1]"; }

# In a word: leader, follower, learning, … and how many places it is behind.
role() { "$duramen" status --dir "$cluster" 2>/dev/null | awk -v i="$1" '$1 == i { print $2, $7 }'; }
# Votes again, and has executed nearly all that the others have.
taking_part() {
    local tries state
    for ((tries = 0; tries < 120; tries++)); do
        state=$(role "$1")
        case $state in
        "leader "* | "follower "[0-9] | "follower "[0-9][0-9]) return ;;
        esac
        sleep 0.25
    done
    fail "replica $1 is not back after 30 s: $state"
}

# --- load ----------------------------------------------------------------------------------------------------------------

# measure NAME RW DEPTH: IOPS and p99.
measure() {
    fio --name="$1" --ioengine=nbd --uri="$uri" --rw="$2" --bs=4k --iodepth="$3" --size=64m --time_based \
        --runtime="$seconds" --ramp_time=1 --percentile_list=50:99 --clat_percentiles=0 --lat_percentiles=1 \
        --output-format=terse --terse-version=3 >"$dir/$1.fio" 2>"$dir/$1.fio.err" || fail "fio $1: $(tail -2 "$dir/$1.fio.err")"
    say "$1" "$(awk -F';' -v at=$([ "$2" = randwrite ] && echo 49 || echo 8) '/^3;/ {
        split($(at + 10), p50, "="); split($(at + 11), p99, "=");
        printf "%d IOPS of 4 KiB, p50 %.2f ms, p99 %.2f ms", $at, p50[2] / 1000, p99[2] / 1000 }' "$dir/$1.fio")"
}

# Random writes of 4 to 64 KiB to 48 MiB of their own, each read back and checked soon after it was written, and all of them in
# the end. Round k's bytes are random numbers of its own.
round=0
options_of() {
    options=(--name=verify --ioengine=nbd --uri="$uri" --bsrange=4k-64k --iodepth=16 --size=48m --offset=$((64 + 48 * $1))m
        --verify=crc32c --verify_fatal=1 --verify_state_save=0 --randseed=$((100 + $1)) --output-format=normal)
}
load() {
    options_of $round
    fio "${options[@]}" --rw=randwrite --verify_backlog=64 --rate=6m >"$dir/verify-$round.fio" 2>&1 &
    fio_pid=$!
    sleep 2
}
load_is_clean() {
    kill -0 "$fio_pid" 2>/dev/null || say note "the load had ended before the fault was over"
    wait "$fio_pid" || { grep verify: "$dir/verify-$round.fio" | tail -3; fail "fio: $1"; }
    say verify "$1: clean; $(awk '/ issued rwts/ { split($3, n, "[=,]"); print n[3] " writes, " n[2] " of them read back under load and after" }' \
        "$dir/verify-$round.fio")"
    round=$((round + 1))
}
# Reads everything that round $1 wrote. (--verify_only of fio 3.33 reads nothing through its nbd engine.)
verify_round() {
    options_of "$1"
    fio "${options[@]}" --rw=randread >"$dir/verify-again.fio" 2>&1
}

# --- go ------------------------------------------------------------------------------------------------------------------

port=$((20000 + RANDOM % 10000))
"$duramen" init --replicas $n --dir "$cluster" --listen 127.0.0.1:$port --checkpoint-period 2048 --segment-mib 16 \
    --log-max-mib 4096 >"$dir/init.out" 2>&1 || fail "$(tail -1 "$dir/init.out")"
for ((i = 0; i < n; i++)); do start $i; done
started 0 1 2 3
say cluster "$n replicas (Byzantine, f = 1), each a C program on duramen.h, in $dir"

nbdkit -f -U "$socket" "$dir/bin/nbdkit-duramen-plugin.so" dir="$cluster" deadline-ms=60000 2>"$dir/nbdkit.err" &
nbdkit_pid=$!
for ((i = 0; i < 300; i++)); do [ -S "$socket" ] && nbdinfo --size "$uri" >/dev/null 2>&1 && break; sleep 0.1; done
[ "$(nbdinfo --size "$uri" 2>/dev/null)" = $size ] || fail "nbdkit: $(tail -1 "$dir/nbdkit.err")"
say nbdkit "a disk of $((size >> 20)) MiB at $uri"

measure write-1 randwrite 1
measure write-16 randwrite 16
measure read-1 randread 1
measure read-16 randread 16

load
kill_hard 0
say "kill -9" "replica 0, under load"
sleep 2
start 0
started 0
taking_part 0
say restart "replica 0 takes part again"
load_is_clean "a replica killed"

load
kill_hard 1
rm -rf "$cluster"/replica-1/{log,decisions,checkpoints}
"$duramen" recover --dir "$cluster" --replica 1 >"$dir/recover.out" 2>&1 || fail "recover: $(tail -1 "$dir/recover.out")"
start 1
started 1
say wipe "replica 1 lost its log and all checkpoints, and runs again"
taking_part 1
say recovered "replica 1 has its state from the others, and votes"
load_is_clean "a replica wiped and recovered"

load
stop 2
start 2 --lie answers
started 2
taking_part 2
say lie "replica 2 answers every read with other bytes"
load_is_clean "a replica that lies to clients"

load
stop 2
start 2 --lie state
started 2
say lie "replica 2 stores other bytes than it is told"
load_is_clean "a replica whose state is another"
say noticed "$("$duramen" status --dir "$cluster" 2>/dev/null | awk '$1 == 2 { on = 1; next } $1 == 3 { on = 0 } on && /ALARM|halted|transfer|excluded/ { sub(/^ */, ""); print substr($0, 1, 60) "…"; exit }')"
stop 2
rm -rf "$cluster"/replica-2/{log,decisions,checkpoints}
"$duramen" recover --dir "$cluster" --replica 2 >"$dir/recover.out" 2>&1 || fail "recover: $(tail -1 "$dir/recover.out")"
start 2
started 2
taking_part 2
say honest "replica 2 is itself again, with the others' state"

load
kill_hard 0 1 2 3
say "kill -9" "all four, under load"
for ((i = 0; i < n; i++)); do start $i; done
started 0 1 2 3
say restart "all four"
load_is_clean "all killed"
for ((i = 0; i < round; i++)); do
    verify_round $i || fail "fio, round $i again: $(grep verify: "$dir/verify-again.fio" | tail -1)"
done
say verify "all that was written since the beginning, once more: clean"
if command -v qemu-io >/dev/null; then
    qemu-io -f raw -c "write -q -P 3 $((64 + 48))M 64k" "$uri" || fail qemu-io
    verify_round 1 && fail "fio does not notice 64 KiB of other bytes: its verification says nothing"
    say verify "64 KiB overwritten on purpose: fio notices"
fi

# Data and holes over four connections, and back.
truncate -s $size "$dir/image"
for at in 3 57 130 211; do
    dd if=/dev/urandom of="$dir/image" bs=1M count=8 seek=$at conv=notrunc status=none
done
copied=$(date +%s%N)
nbdcopy --connections=4 "$dir/image" "$uri" || fail "nbdcopy to the disk"
copied=$((($(date +%s%N) - copied) / 1000000))
qemu-img compare -f raw -F raw "$dir/image" "$uri" >"$dir/compare.out" 2>&1 || fail "qemu-img: $(tail -1 "$dir/compare.out")"
nbdcopy "$uri" "$dir/image.back" && cmp "$dir/image" "$dir/image.back" || fail "nbdcopy from the disk"
say copy "nbdcopy there (32 MiB and zeros in $copied ms) and back, and qemu-img compare: equal"

# A file system on it, and a database on that.
files() {
    mkdir -p "$dir/fuse" "$dir/mnt"
    nbdfuse -C 4 "$dir/fuse/disk" "$uri" 2>"$dir/nbdfuse.err" &
    fuse_pid=$!
    for ((i = 0; i < 100; i++)); do [ -e "$dir/fuse/disk" ] && break; sleep 0.1; done
    [ -e "$dir/fuse/disk" ] || fail "nbdfuse: $(tail -1 "$dir/nbdfuse.err")"
    mkfs.ext4 -q -F "$dir/fuse/disk" || fail mkfs.ext4
    if ! mount -o loop "$dir/fuse/disk" "$dir/mnt" 2>"$dir/mount.err"; then
        say skipped "no loop device can be mounted here: $(tail -1 "$dir/mount.err")"
    else
        mounted=yes
        database >"$dir/sqlite.out" 2>&1 &
        local database_pid=$!
        sleep 1
        kill_hard 3
        wait $database_pid || fail "sqlite3: $(tail -1 "$dir/sqlite.out")"
        start 3
        started 3
        umount "$dir/mnt" || fail umount
        mounted=
        mount -o loop "$dir/fuse/disk" "$dir/mnt" && mounted=yes
        local found
        found=$(sqlite3 "$dir/mnt/db" 'PRAGMA integrity_check; SELECT count(*), sum(id) FROM t;' 2>&1)
        umount "$dir/mnt" && mounted=
        [ "$found" = "$(printf 'ok\n20000|200010000')" ] || fail "sqlite3: $found"
        e2fsck -fn "$dir/fuse/disk" >"$dir/e2fsck.out" 2>&1 || fail "e2fsck: $(tail -1 "$dir/e2fsck.out")"
        say files "ext4 with SQLite on it, replica 3 killed meanwhile: integrity_check ok, e2fsck clean"
    fi
    fusermount3 -u "$dir/fuse" && wait "$fuse_pid"
    fuse_pid=
}
database() {
    local i
    sqlite3 "$dir/mnt/db" 'PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT);' || return 1
    for ((i = 0; i < 20; i++)); do
        sqlite3 "$dir/mnt/db" "PRAGMA synchronous = FULL; WITH RECURSIVE c(x) AS (SELECT $((i * 1000 + 1)) UNION ALL
            SELECT x + 1 FROM c WHERE x < $((i * 1000 + 1000))) INSERT INTO t SELECT x, hex(randomblob(100)) FROM c;" || return 1
    done
}
lacking=
for pair in nbdfuse:libnbd-bin fusermount3:fuse3 sqlite3:sqlite3 mkfs.ext4:e2fsprogs; do
    command -v "${pair%:*}" >/dev/null || lacking="$lacking ${pair#*:}"
done
if [ -n "$lacking" ]; then
    say skipped "no file system: apt-get install$lacking"
elif [ "$(id -u)" != 0 ] || [ ! -e /dev/fuse ]; then
    say skipped "no file system: that needs root and /dev/fuse"
else
    files
fi

for ((i = 0; i < n; i++)); do taking_part $i; done
for ((i = 0; i < n; i++)); do stop $i; done
pids=()
result=PASS
say PASS "every byte read was the one last written, whatever failed"
