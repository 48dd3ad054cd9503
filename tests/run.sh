#!/usr/bin/env bash
# Every check there is: formatting, lints, build, unit, doc, style and end-to-end tests, and a short
# run of the fuzz targets where a nightly toolchain is.
#
# On Debian as root it installs the servers the tests need; otherwise it says what is missing. Nothing
# else is left out: a missing server is a failure. About half an hour on two cores from nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

# What the tests run, and the Debian package that has it. Alternatives are separated by `|`.
needs=(
    "nginx:nginx"
    "php-fpm|php-fpm8.2|php-fpm8.4:php-fpm"
    "apache2:apache2"
    "haproxy:haproxy"
    "varnishd:varnish"
    "varnishncsa:varnish"
    "caddy:caddy"
    "chromium:chromium fonts-dejavu-core"
    "exim4:exim4-daemon-light"
    "lighttpd:lighttpd"
    "dpkg-deb:dpkg"
    "setpriv:util-linux"
    "prlimit:util-linux"
    "systemd-analyze:systemd"
    "unshare:util-linux"
    "nsenter:util-linux"
    "mkfs.ext4:e2fsprogs"
    "faketime:faketime"
    "redis-server:redis-server"
    "prometheus-alertmanager:prometheus-alertmanager"
    "memcached:memcached"
    "mariadbd:mariadb-server-core"
    "ip:iproute2"
    "nft:nftables"
    "openssl:openssl"
    "curl:curl"
    "python3:python3"
    "dbus-daemon:dbus"
    "dbus-send:dbus"
    "shellcheck:shellcheck"
    "cc:gcc libc6-dev"
    "c++:g++"
)

PATH="$PATH:/usr/sbin:/sbin"
cargo_home=${CARGO_HOME:-${HOME:-/root}/.cargo}
PATH="$PATH:$cargo_home/bin"
export PATH
cases=$(mktemp)
steps=()
failed=()
policy=

cleanup() {
    rm -f "$cases"
    [ -z "$policy" ] || rm -f "$policy"
}
trap cleanup EXIT

# Modules of the distribution's Python, and their packages.
modules=(
    "dbusmock:python3-dbusmock"
)

missing() {
    local need names name
    for need in "${needs[@]}"; do
        IFS='|' read -ra names <<<"${need%%:*}"
        for name in "${names[@]}"; do
            command -v "$name" >/dev/null && continue 2
        done
        printf '%s ' "${need#*:}"
    done
    for need in "${modules[@]}"; do
        /usr/bin/python3 -c "import ${need%%:*}" 2>/dev/null || printf '%s ' "${need#*:}"
    done
}

# Debian starts a server as soon as it is installed; policy-rc.d forbids it, for this run only.
install() {
    echo "run.sh: installing $*"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -o Acquire::Retries=3 update
    # shellcheck disable=SC2068 # package names, one or two words each
    apt-get -q -y -o Acquire::Retries=3 --no-install-recommends install $@
}

prepare() {
    if ! command -v cargo >/dev/null; then
        echo "run.sh: cargo is missing: install Rust from https://rustup.rs" >&2
        exit 1
    fi
    local packages
    packages=$(missing)
    if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # shellcheck disable=SC2086 # one word per package
        install $packages
        packages=$(missing)
    fi
    if [ -n "$packages" ]; then
        echo "run.sh: missing: $packages" >&2
        echo "run.sh: install them (as root on Debian this script does it), then start again" >&2
        exit 1
    fi
}

# Runs one step, shows its output, keeps cargo's result lines for the end. After a failure the other
# steps still run, so that one run tells all that is wrong; without a build there is nothing to run.
step() {
    local name=$1 started=$SECONDS
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    if ! "$@" 2>&1 | tee -a "$cases"; then
        failed+=("$name")
        printf '\nrun.sh: FAILED at %s\n' "$name"
        [ "$name" != build ] || finish || exit 1
    fi
    steps+=("$(printf '%-10s %4d s' "$name" $((SECONDS - started)))")
}

# Runs tests, so many at once. When no more than three failed they run once more, alone: one that passes
# then was disturbed by its neighbours. The summary says so of each, for that is a fault to mend as well.
run_tests() {
    local threads=$1 log name names n result=0
    shift
    log=$(mktemp)
    if cargo test --locked --workspace --no-fail-fast "$@" -- --test-threads="$threads" 2>&1 | tee "$log"; then
        rm -f "$log"
        return
    fi
    mapfile -t names < <(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log")
    n=$(awk '/^test result: FAILED/ {n += $6} END {print n + 0}' "$log")
    # More than a few, one whose name other output garbles, or a crash: that is no accident.
    if [ ${#names[@]} -eq 0 ] || [ ${#names[@]} -gt 3 ] || [ ${#names[@]} != "$n" ] ||
        grep -q "didn't exit successfully" "$log"; then
        rm -f "$log"
        return 1
    fi
    for name in "${names[@]}"; do
        printf '\nrun.sh: once more, alone: %s\n' "$name"
        if cargo test --locked --workspace "$@" -- --exact "$name" 2>&1 | tee "$log" &&
            grep -q '^test result: ok. [1-9]' "$log"; then
            echo "FLAKY $name: failed among others, passed alone"
        else
            result=1
        fi
    done
    rm -f "$log"
    return $result
}

summary() {
    printf '\n== summary: %d s\n' "$SECONDS"
    [ ${#steps[@]} -eq 0 ] || printf '%s\n' "${steps[@]}"
    # What failed says why, in a line or two.
    grep -A3 -E "^thread '.*panicked at" "$cases" | grep -v '^stack backtrace' | tail -n 200 || true
    grep -E '^ +(Running|Doc-tests)|^test result:|^test .* FAILED|^FLAKY|^fuzz|^FUZZING|^corpus|^CORPUS|^judge|^D[1-7]' "$cases" || true
}

finish() {
    summary
    [ ${#failed[@]} -gt 0 ] || return 0
    printf '\nrun.sh: FAILED at %s\n' "${failed[*]}"
    return 1
}

export CARGO_TERM_COLOR=never RUST_BACKTRACE=${RUST_BACKTRACE:-0}
prepare
step fmt cargo fmt --all -- --check
step shell shellcheck deploy/*.sh tests/*.sh tests/fuzz/run.sh .ci/run
step clippy cargo clippy --locked --workspace --all-targets -- -D warnings
step build cargo build --locked --workspace --all-targets
step unit run_tests "$(nproc)" --lib --bins
step doc cargo test --locked --workspace --doc
# Real lines with labels; without them the summary says that nothing was scored.
step corpus tests/corpus.sh
# Labelled worlds through the real detector, held to floors.
step judge tests/judge.sh
# The end-to-end tests mostly wait for servers: more of them at once than there are processors.
step e2e run_tests 4 --test '*'
# Needs a nightly toolchain; where there is none the summary says that it did not run.
step fuzz tests/fuzz/run.sh 15
finish
