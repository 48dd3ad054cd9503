#!/bin/sh
# gatewatch on this machine in one command: builds it, starts a collector and an agent in a directory
# of their own, shows what the agent found, and follows incidents until Ctrl-C. Needs no root and no
# web server; leaves nothing running.
set -eu

usage() {
    cat <<'TEXT'
usage: deploy/quickstart.sh [--demo] [--dir DIR] [--for SECONDS] [--bin DIR]
  --demo         add six simulated servers; one loses its PHP-FPM pool after 20 s, after 45 s all of a
                 hypervisor do
  --dir DIR      where everything is kept (default: ~/.local/state/gatewatch-quickstart), emptied first
  --for SECONDS  end by itself
  --bin DIR      use the programs in DIR instead of building them
TEXT
}

fail() {
    printf 'quickstart: %s\n' "$*" >&2
    exit 1
}

demo='' dir='' seconds='' bin=''
while [ $# -gt 0 ]; do
    case $1 in
        --demo) demo=yes ;;
        --dir | --for | --bin)
            [ $# -ge 2 ] || { usage >&2; exit 2; }
            case $1 in --dir) dir=$2 ;; --for) seconds=$2 ;; --bin) bin=$2 ;; esac
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
case $seconds in *[!0-9]*) fail "--for wants whole seconds, not '$seconds'" ;; esac

source=$(cd "$(dirname "$0")/.." && pwd)
dir=${dir:-${XDG_STATE_HOME:-${HOME:-/tmp}/.local/state}/gatewatch-quickstart}
pids=
build_pid=

# Stops what this script started, newest first, so that agents can say goodbye to the collector.
stop() {
    trap - EXIT INT TERM HUP
    [ -z "$build_pid" ] || kill "$build_pid" 2>/dev/null || :
    [ -n "$pids" ] || return 0
    for pid in $pids; do
        kill "$pid" 2>/dev/null || :
        n=0
        while kill -0 "$pid" 2>/dev/null; do
            n=$((n + 1))
            [ $n -lt 100 ] || kill -9 "$pid" 2>/dev/null || :
            sleep 0.1
        done
    done
    printf '\nStopped; nothing is left running. Configuration, logs and database: %s\n' "$dir"
}
trap 'stop; exit 130' INT
trap 'stop; exit 143' TERM HUP
trap stop EXIT

# An unoptimised build: it takes a third of the time of a release build and is fast enough to look at.
build() {
    command -v cargo >/dev/null || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    command -v cargo >/dev/null || fail "cargo is missing: install Rust from https://rustup.rs"
    command -v cc >/dev/null || fail "a C compiler is missing: for example, apt install gcc libc6-dev"
    printf 'Building gatewatch (the first time about two minutes) ...\n'
    (cd "$source" && exec cargo build --locked --workspace --bins >"$dir/build.log" 2>&1) &
    build_pid=$!
    while kill -0 "$build_pid" 2>/dev/null; do
        if [ -t 1 ]; then
            printf '\r  %s packages compiled' "$(grep -c Compiling "$dir/build.log" || :)"
        fi
        sleep 0.5
    done
    [ ! -t 1 ] || printf '\r\033[K'
    if ! wait "$build_pid"; then
        build_pid=
        tail -n 30 "$dir/build.log" >&2
        fail "the build failed; all of its output is in $dir/build.log"
    fi
    build_pid=
    bin=${CARGO_TARGET_DIR:-$source/target}/debug
}

# Starts a program in the background: start NAME COMMAND... ; its output goes to DIR/logs/NAME.log.
start() {
    name=$1
    shift
    "$@" >"$dir/logs/$name.log" 2>&1 </dev/null &
    pids="$! $pids"
}

# One string out of a JSON object.
json() {
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"
}

operator() {
    "$bin/gatewatch-collector" --config "$dir/collector.toml" --log-level error "$@"
}

start_collector() {
    cat >"$dir/collector.toml" <<TOML
data_dir = "$dir/collector"
socket = "$dir/collector.sock"
[grpc]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
TOML
    start collector "$bin/gatewatch-collector" --config "$dir/collector.toml" run
    collector_pid=${pids%% *}
    n=0
    until operator agent list >/dev/null 2>&1 && [ -s "$dir/collector/grpc.addr" ]; do
        n=$((n + 1))
        if [ $n -gt 150 ] || ! kill -0 "$collector_pid" 2>/dev/null; then
            tail -n 20 "$dir/logs/collector.log" >&2
            fail "the collector does not start; its log is $dir/logs/collector.log"
        fi
        sleep 0.2
    done
    address=$(cat "$dir/collector/grpc.addr")
    printf 'Collector: agents on %s, database %s/collector/gatewatch.db\n' "$address" "$dir"
}

# Enrols and starts an agent: add_agent NAME ROOT [LABEL]
add_agent() {
    mkdir -p "$dir/$1.agent"
    cat >"$dir/$1.toml" <<TOML
state_dir = "$dir/$1.agent"
socket = "$dir/$1.agent/agent.sock"
[collector]
address = "$address"
[host]
name = "$1"
[logs]
root = "$2"
TOML
    made=$(operator token create --json ${3:+--label "$3"}) || fail "no join token for $1"
    if ! GATEWATCH_TOKEN=$(printf '%s\n' "$made" | json token) \
        "$bin/gatewatch-agent" --config "$dir/$1.toml" enroll --collector "$address" \
        --ca-hash "$(printf '%s\n' "$made" | json ca_hash)" >"$dir/logs/$1.enroll.log" 2>&1; then
        cat "$dir/logs/$1.enroll.log" >&2
        fail "$1 cannot enrol"
    fi
    start "$1" "$bin/gatewatch-agent" --config "$dir/$1.toml" run
}

start_demo() {
    demo_root=$dir/simulated
    "$bin/gatewatch-demo" --dir "$demo_root" layout >"$dir/servers"
    while read -r name hypervisor root; do
        add_agent "$name" "$root" "hypervisor=$hypervisor"
    done <"$dir/servers"
    printf '\nDemo: six simulated servers, each with a real agent on log files a generator writes:\n'
    n=0 # Each agent says how many sites it knows with its first heartbeat.
    while operator agent list --json | grep '"server":"web-' | grep -q '"n_sites":0'; do
        n=$((n + 1))
        [ $n -lt 100 ] || fail "an agent does not come up; its log is in $dir/logs"
        sleep 0.2
    done
    operator agent list
}

follow() {
    printf '\nFollowing incidents; Ctrl-C stops everything. To look closer, in another terminal:\n'
    printf '  %s --config %s incident show ID\n\n' "$bin/gatewatch-collector" "$dir/collector.toml"
    # Not by the function above: $! would be a subshell, and killing that leaves the program behind.
    "$bin/gatewatch-collector" --config "$dir/collector.toml" --log-level error incident follow \
        </dev/null &
    pids="$! $pids"
    if [ -n "$demo" ]; then
        "$bin/gatewatch-demo" --dir "$demo_root" run </dev/null &
        pids="$! $pids"
    fi
    until=${seconds:+$(($(date +%s) + seconds))}
    while [ -z "$until" ] || [ "$(date +%s)" -lt "$until" ]; do
        kill -0 "$collector_pid" 2>/dev/null || fail "the collector ended: $dir/logs/collector.log"
        sleep 0.5
    done
}

# Only a directory that is empty or was made by this script is emptied.
if [ -n "$(ls -A "$dir" 2>/dev/null || :)" ]; then
    [ -e "$dir/.gatewatch-quickstart" ] || fail "$dir is not empty and not mine: choose another --dir"
    rm -rf "$dir"
fi
mkdir -p "$dir/logs" || fail "cannot make $dir: choose another --dir"
dir=$(cd "$dir" && pwd)
: >"$dir/.gatewatch-quickstart"
[ ${#dir} -le 70 ] || fail "$dir is too long for Unix sockets: choose a shorter --dir"

[ -n "$bin" ] || build
[ -x "$bin/gatewatch-collector" ] || fail "no gatewatch-collector in $bin"
start_collector
this=$(uname -n)
add_agent "$this" /
printf 'Agent: %s, enrolled with a join token. What it found here:\n' "$this"
"$bin/gatewatch-agent" --config "$dir/$this.toml" --log-level error discover | sed 's/^/  /'
[ -z "$demo" ] || start_demo
follow
