#!/usr/bin/env bash
# Fuzzes everything of the agent that reads bytes: tests/fuzz/run.sh [seconds a target] [target ...]
#
# Builds the targets with cargo-fuzz (address sanitizer, overflow checks), replays the seeds and then
# tries new inputs. It needs a nightly toolchain: without one it says so and ends with 0, since no
# other check depends on it. What it finds stays under target/fuzz/found, and the end is not 0.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-15}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(format access_text json w3c haproxy error_logs system_logs configs lines spool answers)

PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin"
export PATH CARGO_TERM_COLOR=never

not_run() {
    echo "FUZZING NOT RUN: $1"
    exit 0
}

if ! cargo +nightly --version >/dev/null 2>&1; then
    not_run "there is no nightly toolchain: rustup toolchain install nightly --profile minimal"
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install --quiet --locked cargo-fuzz || not_run "cargo-fuzz cannot be installed"
fi

dir=$PWD/../../target/fuzz
found=$dir/found
mkdir -p "$found"
cargo +nightly fuzz build --fuzz-dir . --target-dir "$dir"
host=$(rustc +nightly -vV | sed -n 's/^host: //p')

for target in "${targets[@]}"; do
    corpus=$dir/corpus/$target
    mkdir -p "$corpus"
    # Memory and time of one input are bounded: growth and hangs are findings too.
    "$dir/$host/release/$target" "$corpus" "seeds/$target" -max_total_time="$seconds" \
        -rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=60 -max_len=8192 -verbosity=0 \
        -print_final_stats=1 -artifact_prefix="$found/$target-" 2>"$dir/$target.log" || {
        tail -n 60 "$dir/$target.log"
        echo "fuzz target $target failed; its input is under $found"
        exit 1
    }
    printf 'fuzz %-12s %s inputs in %s s\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$dir/$target.log")" "$seconds"
done
