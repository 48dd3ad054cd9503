#!/usr/bin/env bash
# What gatewatch costs, beside the programs people would use instead: prints one table.
#
# tests/bench.sh [--markdown] [--mib N] [A1 A9 ...]: all rows without any. About 40 minutes. On
# Debian as root it installs the references; a row whose reference is missing says so. It needs
# 6 GiB of disk under target/, and a machine that does little else: it is no part of CI. The size of
# the released program (A12) takes some minutes to build, so it is only told when A12 is asked for; so is
# the speed of localize (D8S), which needs the released collector.
set -euo pipefail
cd "$(dirname "$0")/.."

needs=("wc:coreutils" "taskset:util-linux" "rg:ripgrep" "mtail:mtail" "goaccess:goaccess"
    "valgrind:valgrind" "/usr/bin/time:time" "cc:gcc libc6-dev"
    "prometheus-node-exporter:prometheus-node-exporter" "netdata:netdata"
    "victoria-metrics:victoria-metrics" "pip3:python3 python3-pip")
policy=

# Debian starts a server as soon as it is installed; policy-rc.d forbids it, for this run only.
cleanup() {
    [ -z "$policy" ] || rm -f "$policy"
}
trap cleanup EXIT

PATH="$PATH:/usr/sbin:/sbin:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
export PATH CARGO_TERM_COLOR=never

missing() {
    local need
    for need in "${needs[@]}"; do
        command -v "${need%%:*}" >/dev/null || printf '%s ' "${need#*:}"
    done
}

packages=$(missing)
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "bench.sh: installing $packages" >&2
    export DEBIAN_FRONTEND=noninteractive
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get -q -o Acquire::Retries=3 update >&2
    # shellcheck disable=SC2086 # one word per package
    apt-get -q -y -o Acquire::Retries=3 --no-install-recommends install $packages >&2
    packages=$(missing)
fi
if [ -n "$packages" ]; then
    echo "bench.sh: missing, so that rows will be missing too: $packages" >&2
fi

# Agent and collector as they are shipped; any build of the bench itself will do.
cargo build --locked --release -p gatewatch-agent -p gatewatch-collector --bins --examples >&2
cargo build --locked --workspace --bins >&2
export BENCH_AGENT="$PWD/target/release/gatewatch-agent"
export BENCH_COLLECTOR="$PWD/target/release/gatewatch-collector"
case " $* " in
    *" A12 "*)
        cargo build --locked --profile dist -p gatewatch-agent >&2
        export BENCH_DIST="$PWD/target/dist/gatewatch-agent"
        ;;
esac
# Each agent of the rows about many of them is an open file, on both sides.
ulimit -n "$(ulimit -Hn)"
# Logs of rows that write while they measure, on the disk logs are on.
mkdir -p target/bench/tmp
export TMPDIR="$PWD/target/bench/tmp"
target/debug/gatewatch-bench --agent "$BENCH_AGENT" --dir target/bench "$@"
