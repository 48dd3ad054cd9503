#!/usr/bin/env bash
# Makes the pictures of the README in docs/: mails of an outage, its end and a digest, out of the real
# templates, as Chromium shows them. Run it when a template changes.
set -euo pipefail
cd "$(dirname "$0")/.."

mails=$(mktemp -d)
trap 'rm -rf "$mails"' EXIT
mkdir -p docs
cargo build --quiet --locked --workspace --examples
target/debug/examples/mail "$mails"
target/debug/examples/screenshots "$mails" docs
ls -l docs
