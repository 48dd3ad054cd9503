#!/usr/bin/env bash
# Scores `gatewatch-agent parse` on labelled lines of real logs, with the scorer that lies beside them.
#
# $GATEWATCH_CORPUS is a folder of NAME.log files, each with its labels in NAME.expected.jsonl, and of
# check.py, which compares `parse`'s objects (NAME.got.jsonl) with them: fields, and above all gateway
# errors that were missed or made up. Without it nothing is scored, which CI takes as a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${GATEWATCH_CORPUS:-}" ]; then
    echo "CORPUS NOT SCORED: set GATEWATCH_CORPUS to a folder of labelled logs"
    [ "${CI:-}" != true ]
    exit
fi
agent=$(realpath "${CARGO_TARGET_DIR:-target}")/debug/gatewatch-agent
got=$(mktemp -d)
trap 'rm -rf "$got"' EXIT
cd "$GATEWATCH_CORPUS"
n=0
while IFS= read -r -d '' log; do
    mkdir -p "$got/$(dirname "$log")"
    "$agent" parse "$log" >"$got/${log%.log}.got.jsonl"
    n=$((n + 1))
done < <(find . -name '*.log' -print0)
lines=$(find "$got" -name '*.jsonl' -exec cat {} + | wc -l)
python3 -B check.py . "$got" | tee "$got/score" || true
grep -q '^fields wrong:' "$got/score" || { echo "corpus: check.py did not come to its end" && exit 1; }
events=$({ grep -oE '(missed|false)_event=[0-9]+' "$got/score" || true; } | awk -F= '{n += $2} END {print n + 0}')
# A few labels take a word for an address: Apache's "Error reading from remote server returned by /x"
# names no server, so none is printed.
known="^wrong +[^ ]+ upstream: want 'returned' got None$"
wrong=$({ grep -E '^(wrong|refused|missed_event|false_event|LINES) ' "$got/score" || true; } | { grep -vcE "$known" || true; })
if [ "$n" -lt 100 ] || [ "$lines" -lt 8000 ]; then
    echo "corpus: only $n files and $lines lines: is this the corpus?"
    exit 1
fi
echo "corpus: $lines lines of $n logs, $events gateway errors missed or made up, $wrong lines wrong ($(grep -cE "$known" "$got/score" || true) labels in doubt)"
[ "$wrong" = 0 ] && [ "$events" = 0 ]
