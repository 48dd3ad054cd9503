#!/usr/bin/env bash
# Plays labelled worlds of servers through the real detector and scores what it tells: scope, site
# sets, cause, delay, false and repeated incidents. Fails below a floor of tests/judge/rows.rs.
#
# Without arguments the small set of CI. Others go to the judge: `--seeds 10-29` plays every scenario
# with twenty other seeds, `--scenario NAME --seed N --explain --write DIR` looks into one world.
set -euo pipefail
cd "$(dirname "$0")/.."

built=$(realpath "${CARGO_TARGET_DIR:-target}")/debug
for program in gatewatch-judge gatewatch-collector; do
    if [ ! -x "$built/$program" ]; then
        echo "judge: $built/$program is missing: cargo build --workspace" >&2
        exit 2
    fi
done
exec "$built/gatewatch-judge" --explain "$@"
