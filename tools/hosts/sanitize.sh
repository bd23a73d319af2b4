#!/bin/bash
# The C programs here with AddressSanitizer and UndefinedBehaviorSanitizer in them, then under valgrind, which looks at the library's code as
# well; then the library's random calls under valgrind. One line for each, and PASS or FAIL. What is not installed is skipped, and said.
#
#   tools/hosts/sanitize.sh [--dir DIR] [--no-build] [--calls N] [--keep]
#
# --dir       where clusters and reports go, a fresh folder on a real disk; the current folder if left out
# --no-build  takes target/release as it is
# --calls     how many random calls under valgrind (20000); 0: none
# --keep      leaves the folder
#
# The Rust code itself is not compiled with AddressSanitizer: that takes a nightly compiler (-Zsanitizer=address), and a stable one only by
# RUSTC_BOOTSTRAP, which nothing that is kept may use. Its memory comes from malloc, so that sanitized programs see its leaks, and what it
# does to memory by libc's functions; valgrind sees each of its accesses.
set -u

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/release
base=. build=yes calls=20000 keep=no
while [ $# -gt 0 ]; do
    case $1 in
    --dir) base=${2:?--dir DIR}; shift ;;
    --no-build) build=no ;;
    --calls) calls=${2:?--calls N}; shift ;;
    --keep) keep=yes ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
for tool in cc make; do
    command -v $tool >/dev/null || { echo "missing: $tool; on Debian: apt-get install gcc make" >&2; exit 2; }
done

begin=$(date +%s%N)
mkdir -p "$base" && base=$(cd "$base" && pwd) || exit 1
dir=$base/duramen-sanitize-$$
mkdir "$dir" || exit 1
pids=() failures=0 backgrounds=0
say() { printf '[%5.1f s] %-8s %s\n' "$(($(date +%s%N) / 1000000 - begin / 1000000))e-3" "$1" "$2"; }
end() {
    trap - EXIT INT TERM
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null; done
    wait
    if [ $keep = no ] && [ "${result:-FAIL}" = PASS ]; then rm -rf "$dir"; else say kept "$dir"; fi
    echo "${result:-FAIL}"
    [ "${result:-FAIL}" = PASS ]
    exit
}
trap end EXIT
trap 'exit 1' INT TERM

if [ $build = yes ]; then
    (cd "$root" && cargo build --release) || { say FAIL "cargo build --release"; exit 1; }
fi
[ -x "$target/duramen" ] && [ -e "$target/libduramen.so" ] ||
    { say FAIL "$target has no duramen: leave --no-build out"; exit 1; }

# build FOLDER CFLAGS: all programs into that folder.
build() {
    local paths=(DURAMEN_INCLUDE="${DURAMEN_INCLUDE:-$root/src/capi}" DURAMEN_LIB="$target")
    make -s -C "$here" BUILD="$dir/$1" CFLAGS="$2" "${paths[@]}" hosts >"$dir/$1.out" 2>&1 &&
        cc $2 -std=c99 -Wall -Wextra -I "${DURAMEN_INCLUDE:-$root/src/capi}" "$here/tutorial/put_get.c" -L "$target" \
            -Wl,-rpath,"$dir/$1" -lduramen -o "$dir/$1/put_get" >>"$dir/$1.out" 2>&1
}

# --- programs under a tool: $under goes before the program, and reports go to $reports -----------------------------------------------------

# ran NAME CODE EXPECTED FILE: says how it went. FILE has what it printed, and ends with EXPECTED.
ran() {
    if [ "$2" = 0 ] && [ "$(tail -n 1 "$4")" = "$3" ]; then say ok "$tool: $1"; return; fi
    failures=$((failures + 1))
    say FAILED "$tool: $1: code $2, said \"$(tail -n 1 "$4")\" ($4)"
}
# clean NAME: nothing was reported since the last one; a process that was killed on purpose says nothing.
clean() {
    local found
    found=$(found)
    [ -n "$found" ] || return
    failures=$((failures + 1))
    say FAILED "$tool: $1: see $(echo "$found" | head -n 3 | tr '\n' ' ')"
    mkdir -p "$dir/seen"
    echo "$found" | xargs -I{} mv {} "$dir/seen/"
}
# run NAME EXPECTED PROGRAM ARGUMENTS: to its end.
run() {
    local name=$1 expected=$2 out=$dir/$tool-${1// /-}.out code
    shift 2
    timeout 900 "${under[@]}" "$bin/$1" "${@:2}" >"$out" 2>&1
    code=$?
    ran "$name" $code "$expected" "$out"
    clean "$name"
}
# background PROGRAM ARGUMENTS: until it is stopped. Returns once it has said a line.
background() {
    local out=$dir/$tool-background-$((backgrounds += 1)).out tries
    : >"$out"
    "${under[@]}" "$bin/$1" "${@:2}" >"$out" 2>"$out.err" &
    pids+=($!)
    for ((tries = 0; tries < 1200; tries++)); do
        [ -s "$out" ] && return
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    failures=$((failures + 1))
    say FAILED "$tool: $* did not start: $(tail -n 1 "$out.err")"
}
# stop NAME: ends what runs in the background, which has to end well.
stop() {
    local pid code=0
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
    pids=()
    echo stopped >"$dir/$tool-stop.out"
    ran "$1" $code stopped "$dir/$tool-stop.out"
    clean "$1"
}
# A cluster of four in $dir/$tool-NAME, at addresses that nobody has.
ports=$((10000 + $$ % 1000 * 16))
cluster() {
    ports=$((ports + 16))
    "$target/duramen" init --replicas 4 --segment-mib 8 --listen "127.0.0.1:$ports" --dir "$dir/$tool-$1" \
        >"$dir/$tool-$1.out" 2>&1 || { say FAIL "duramen init: $(tail -n 1 "$dir/$tool-$1.out")"; exit 1; }
}

# programs ADDITIONS KILLS: all of them, shorter where they are slow.
programs() {
    local i
    cluster counter
    run "counter_host" PASS counter_host "$dir/$tool-counter" --additions "$1"
    run "kv_sequencer" PASS kv_sequencer "$dir/$tool-kv" --kills "$2" --cluster "$dir/$tool-counter"
    cluster add
    for i in 0 1 2 3; do background counter_host --replica "$dir/$tool-add" $i; done
    run "add" 5 add "$dir/$tool-add" 5
    run "add again" 42 add "$dir/$tool-add" 37
    stop "counter_host --replica"
    cluster disk
    background block_replica "$dir/$tool-disk" 0 --size 1048576
    stop "block_replica"
    # Its store is duramen's own, which needs no tool.
    cluster store
    "$target/duramen" start --dir "$dir/$tool-store" --all >"$dir/$tool-start.out" 2>&1 &
    pids+=($!)
    run "put_get" "outcome 0: blue" put_get "$dir/$tool-store"
    stop "duramen start"
}

# --- AddressSanitizer and UndefinedBehaviorSanitizer -----------------------------------------------------------------------------------------

tool=asan bin=$dir/asan under=()
found() { find "$dir" -maxdepth 1 -name 'asan-report.*' -size +0; }
echo 'int main(void) { return 0; }' >"$dir/empty.c"
flags="-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
if cc $flags "$dir/empty.c" -o "$dir/empty" 2>/dev/null && "$dir/empty"; then
    if build asan "$flags"; then
        export ASAN_OPTIONS=log_path=$dir/asan-report:detect_stack_use_after_return=1:detect_leaks=1
        export UBSAN_OPTIONS=print_stacktrace=1:log_path=$dir/asan-report
        programs 600 3
        unset ASAN_OPTIONS UBSAN_OPTIONS
    else
        failures=$((failures + 1))
        say FAILED "asan: build: $(tail -n 1 "$dir/asan.out")"
    fi
else
    say skipped "AddressSanitizer: cc has none, or may not run here (Debian: apt-get install libasan8 libubsan1)"
fi

# --- valgrind -------------------------------------------------------------------------------------------------------------------------------

tool=valgrind bin=$dir/plain
found() { grep -lE 'ERROR SUMMARY: [1-9]|definitely lost: [1-9]' "$dir"/valgrind-report.* 2>/dev/null; }
# What only stays reachable (lists of handles, threads' messages) is no leak.
under=("$dir/without_uring" valgrind --error-exitcode=9 --leak-check=full --show-leak-kinds=definite
    --errors-for-leak-kinds=definite --trace-children=yes --child-silent-after-fork=yes --fair-sched=yes
    --suppressions="$dir/valgrind.supp" --gen-suppressions=all --log-file="$dir/valgrind-report.%p")
# The last 16 bytes of a record of TLS, its tag, are made by carry-less multiplications in assembly (the crate ring), after which valgrind takes every
# bit for undefined if one was that is masked off: no mistake, neither where the tag is compared nor where it is sent, in whichever piece. Nor is one
# that the compiler calculates with the number of an Option before it looks whether there is one, and takes the result only if there is.
{
    printf '{\n   number-of-an-option\n   Memcheck:Cond\n   fun:*transfer*source*rtt_ns*\n}\n'
    printf '{\n   tag-compared\n   Memcheck:Cond\n   fun:*ring*aead*algorithm*Algorithm*open_within*\n}\n'
    printf '{\n   tag-compared-inlined\n   Memcheck:Cond\n   fun:UnknownInlinedFun\n   fun:open_in_place_separate_tag<*\n}\n'
    for ((i = 0; i < 64; i++)); do
        printf '{\n   tag-sent-%d\n   Memcheck:Param\n   sendmsg(msg.msg_iov[%d])\n   ...\n   fun:*rustls*write_to*\n}\n' $i $i
    done
} >"$dir/valgrind.supp"
if ! command -v valgrind >/dev/null; then
    say skipped "valgrind: not here (Debian: apt-get install valgrind libc6-dbg)"
elif build plain "-g -O1" && cc -std=c99 -Wall -Wextra "$here/without_uring.c" -o "$dir/without_uring" >>"$dir/plain.out" 2>&1; then
    programs 90 2
    if [ "$calls" -gt 0 ]; then
        if command -v cargo >/dev/null &&
            (cd "$root" && cargo test --release --lib --no-run) >"$dir/tests.out" 2>&1 &&
            tests=$(sed -n 's/.*unittests src\/lib.rs (\(.*\))/\1/p' "$dir/tests.out") && [ -n "$tests" ]; then
            bin=$(cd "$root" && dirname "$(realpath "$tests")") out=$dir/valgrind-random.out
            mkdir "$dir/random"
            DURAMEN_CHILD_DIR=$dir/random DURAMEN_RANDOM_CALLS=$calls timeout 1800 "${under[@]}" \
                "$bin/$(basename "$tests")" --exact capi::random_layers_tests::child_calls --ignored --nocapture >"$out" 2>&1
            code=$?
            grep -q '^test result: ok. 1 passed' "$out" && echo "all as they should" >>"$out"
            ran "$calls random calls" $code "all as they should" "$out"
            clean "$calls random calls"
        else
            say skipped "random calls: no cargo, or the tests do not build ($dir/tests.out)"
        fi
    fi
else
    failures=$((failures + 1))
    say FAILED "valgrind: build: $(tail -n 1 "$dir/plain.out")"
fi

# --- Miri -----------------------------------------------------------------------------------------------------------------------------------

if (cd "$root" && cargo miri --version) >/dev/null 2>&1; then
    # Files, sockets and io_uring are beyond it: the table of handles and what is lent alone.
    if (cd "$root" && MIRIFLAGS=-Zmiri-disable-isolation cargo miri test --lib capi::base_tests) >"$dir/miri.out" 2>&1; then
        say ok "miri: capi::base_tests"
    else
        failures=$((failures + 1))
        say FAILED "miri: $(tail -n 1 "$dir/miri.out") ($dir/miri.out)"
    fi
else
    say skipped "Miri: comes with nightly compilers only (rustup component add miri --toolchain nightly)"
fi

[ $failures -gt 0 ] || result=PASS
