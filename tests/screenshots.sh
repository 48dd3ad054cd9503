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
MAILS=$mails DOCS=$PWD/docs cargo test --quiet --locked --workspace --test e2e \
    mail::pictures_of_mails_for_the_readme -- --ignored --exact
ls -l docs
