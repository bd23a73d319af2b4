#!/usr/bin/env bash
# Builds the library alone and installs it for C programs:
#   tools/install.sh PREFIX            e.g. /usr/local or $HOME/.local
# into PREFIX/lib (libduramen.so with its links, libduramen.a, pkgconfig/duramen.pc) and PREFIX/include (duramen.h).
# DESTDIR is put in front, as packagers want it; LIBDIR replaces "lib".
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: tools/install.sh PREFIX" >&2; exit 2; }
prefix=$1
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
cd "$(dirname "$0")/.."
command -v cargo >/dev/null || { echo "error: no Rust toolchain: install rustup, then run this again" >&2; exit 1; }

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=libduramen.so.${version%.*}
lib=$prefix/${LIBDIR:-lib}

# One build of all kinds of library; it also tells what the static one needs besides itself.
told=$(mktemp)
trap 'rm -f "$told"' EXIT
cargo rustc --color never --release --lib --no-default-features --locked -- --print native-static-libs 2>&1 | tee "$told" >&2
target=$(cargo metadata --format-version 1 --no-deps --locked | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
built=$target/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}release
[ -f "$built/libduramen.so" ] || { echo "error: cargo built no $built/libduramen.so" >&2; exit 1; }
needs=$(sed -n 's/^note: native-static-libs: //p' "$told" | tail -n 1)
: "${needs:=-lgcc_s -lutil -lrt -lpthread -lm -ldl -lc}"

install -d "${DESTDIR:-}$lib/pkgconfig" "${DESTDIR:-}$prefix/include"
install -m 755 "$built/libduramen.so" "${DESTDIR:-}$lib/libduramen.so.$version"
ln -sf "libduramen.so.$version" "${DESTDIR:-}$lib/$name"
ln -sf "$name" "${DESTDIR:-}$lib/libduramen.so"
install -m 644 "$built/libduramen.a" "${DESTDIR:-}$lib/libduramen.a"
install -m 644 src/capi/duramen.h "${DESTDIR:-}$prefix/include/duramen.h"
cat >"${DESTDIR:-}$lib/pkgconfig/duramen.pc" <<PC
prefix=$prefix
libdir=$lib
includedir=\${prefix}/include

Name: duramen
Description: Durable state machine replication
Version: $version
Libs: -L\${libdir} -lduramen
Libs.private: $needs
Cflags: -I\${includedir}
PC
echo "installed duramen $version: $lib/libduramen.so ($name), $lib/libduramen.a, $prefix/include/duramen.h"
if [ -z "${DESTDIR:-}" ]; then
    echo "next, if programs do not find it at run time: ldconfig as root (directories of the system), or link with -Wl,-rpath,$lib"
fi
