#!/usr/bin/env bash
# The links of the geographic paper's Table 1, made of network namespaces: one per site, a veth pair per pair of sites, tbf for the
# bandwidth and netem for the delay at each end. Needs root, ip, tc and both qdiscs; without them it says so and exits with 77.
# `duramen wan` makes the same links without privileges.
#
#   netns.sh up A|B [--bandwidth-only]   makes the sites; site i is the namespace duramen-i with the address 10.77.0.i (from 1)
#   netns.sh exec SITE COMMAND...        runs a command at a site (name or number)
#   netns.sh set FROM TO MBIT            changes a link's bandwidth in one direction
#   netns.sh show                        the links, with what the kernel counts
#   netns.sh down                        removes all
set -euo pipefail

A_SITES=(Sydney SaoPaulo NVirginia Ireland)
A_MBIT=(0 33.7 57.0 42.9  33.3 0 102.2 64.5  56.6 103.0 0 174.3  42.9 64.4 173.3 0)
A_DELAY=75ms
B_SITES=(Ireland London Paris Frankfurt)
B_MBIT=(0 857.8 578.1 420.8  866.8 0 1219.6 667.2  594.4 1234.4 0 1115.5  420.0 662.4 1113.6 0)
B_DELAY=10ms
GROUP_FILE=/run/duramen-wan-group

skip() { echo "skipped: $1; use \`duramen wan\`, which needs no privileges" >&2; exit 77; }
fail() { echo "error: $1" >&2; exit 1; }
at() { ip netns exec "duramen-$1" "${@:2}"; }

need() {
    [ "$(id -u)" = 0 ] || skip "network namespaces need root"
    for tool in ip tc; do command -v "$tool" >/dev/null || skip "there is no \`$tool\` here"; done
    ip netns add duramen-probe 2>/dev/null || skip "network namespaces cannot be made here"
    trap 'ip netns del duramen-probe 2>/dev/null || true' EXIT
    at probe tc qdisc replace dev lo root tbf rate 1mbit burst 10k latency 50ms 2>/dev/null || skip "the kernel has no tbf"
    if [ "$1" = with-delay ]; then
        at probe tc qdisc replace dev lo root netem delay 1ms 2>/dev/null ||
            skip "the kernel has no netem, so there would be no delay (--bandwidth-only does without)"
    fi
    ip netns del duramen-probe
    trap - EXIT
}

# A burst of 1 ms, and 64 kB at least: segments are as large.
burst() { awk -v m="$1" 'BEGIN { b = m * 125; print int(b < 65536 ? 65536 : b) }'; }

shape() { # namespace, device, Mbit/s, delay or nothing
    if [ -n "$4" ]; then
        at "$1" tc qdisc add dev "$2" root handle 1: netem delay "$4" limit 100000
        at "$1" tc qdisc add dev "$2" parent 1:1 handle 10: tbf rate "$3mbit" burst "$(burst "$3")" latency 200ms
    else
        at "$1" tc qdisc add dev "$2" root handle 10: tbf rate "$3mbit" burst "$(burst "$3")" latency 200ms
    fi
}

up() {
    case "${1:-}" in A | B) ;; *) fail "up A or up B" ;; esac
    local delay_name="$1_DELAY" mbit_name="$1_MBIT[@]" sites_name="$1_SITES[@]"
    local delay="${!delay_name}" mbit=("${!mbit_name}") sites=("${!sites_name}") kind=with-delay i j
    if [ "${2:-}" = --bandwidth-only ]; then delay='' kind=without-delay; fi
    need "$kind"
    [ ! -e "$GROUP_FILE" ] || fail "there is one already: \`$0 down\` first"
    echo "$1" >"$GROUP_FILE"
    for i in 1 2 3 4; do
        ip netns add "duramen-$i"
        at "$i" ip link set lo up
        at "$i" ip address add "10.77.0.$i/32" dev lo
    done
    for i in 1 2 3 4; do
        for ((j = i + 1; j <= 4; j++)); do
            ip link add "to$j" netns "duramen-$i" type veth peer name "to$i" netns "duramen-$j"
            for end in "$i $j" "$j $i"; do
                read -r from to <<<"$end"
                at "$from" ip link set "to$to" up
                at "$from" ip route add "10.77.0.$to/32" dev "to$to" src "10.77.0.$from"
                shape "$from" "to$to" "${mbit[4 * (from - 1) + to - 1]}" "$delay"
            done
        done
        echo "${sites[i - 1]}: namespace duramen-$i, 10.77.0.$i"
    done
    echo "delay each way: ${delay:-none}"
}

site() {
    case "$1" in [1-4]) echo "$1"; return ;; esac
    local sites_name i=1 name
    sites_name="$(cat "$GROUP_FILE" 2>/dev/null || fail 'there are no sites: up first')_SITES[@]"
    for name in "${!sites_name}"; do
        if [ "$name" = "$1" ]; then echo "$i"; return; fi
        i=$((i + 1))
    done
    fail "no site $1: ${!sites_name}"
}

case "${1:-}" in
up) up "${@:2}" ;;
down)
    for i in 1 2 3 4; do ip netns del "duramen-$i" 2>/dev/null || true; done
    rm -f "$GROUP_FILE"
    ;;
exec)
    [ $# -ge 3 ] || fail "exec SITE COMMAND"
    i=$(site "$2")
    exec ip netns exec "duramen-$i" "${@:3}"
    ;;
set)
    [ $# = 4 ] || fail "set FROM TO MBIT"
    i=$(site "$2") j=$(site "$3")
    parent=root
    if at "$i" tc qdisc show dev "to$j" | grep -q netem; then parent="parent 1:1"; fi
    # shellcheck disable=SC2086 # two words
    at "$i" tc qdisc replace dev "to$j" $parent handle 10: tbf rate "$4mbit" burst "$(burst "$4")" latency 200ms
    ;;
show)
    for i in 1 2 3 4; do
        for j in 1 2 3 4; do
            [ "$i" = "$j" ] || { echo "$i to $j:"; at "$i" tc -s qdisc show dev "to$j"; }
        done
    done
    ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
