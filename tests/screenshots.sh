#!/usr/bin/env bash
# Makes the pictures of the README in docs/: mails of an outage, its end and a digest, out of the real
# templates, and the three reports about the past of a fleet, as Chromium shows them. Run it when a
# template or a report changes; the past takes about a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

# Hours of the reports are whole, and the same each time.
from=2026-10-16T00:00:00Z
until=2026-11-30T00:00:00Z

pages=$(mktemp -d)
collector=
stop() {
  if [ -n "$collector" ]; then
    kill "$collector" 2>/dev/null || true
    wait "$collector" 2>/dev/null || true
  fi
  rm -rf "$pages"
}
trap stop EXIT
mkdir -p docs
cargo build --quiet --locked --workspace --bins --examples
target/debug/examples/mail "$pages"

target/debug/examples/past "$pages/past" until=$until days=45
chmod 700 "$pages/past"
cat >"$pages/collector.toml" <<EOF
data_dir = "$pages/past"
socket = "$pages/collector.sock"
[grpc]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
[retention]
raw = "90d"
EOF
target/debug/gatewatch-collector run --config "$pages/collector.toml" 2>"$pages/collector.log" &
collector=$!
for _ in $(seq 600); do
  [ -S "$pages/collector.sock" ] && break
  sleep 0.1
done
for kind in capacity outage noise; do
  target/debug/gatewatch-collector report $kind --config "$pages/collector.toml" --from $from --to $until \
    --plans deploy/config/plans.toml --out "$pages/$kind.html" 2>>"$pages/collector.log" ||
    { cat "$pages/collector.log" >&2; exit 1; }
done

target/debug/examples/screenshots "$pages" docs
ls -l docs
