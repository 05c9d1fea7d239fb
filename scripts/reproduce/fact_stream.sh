#!/usr/bin/env bash
# Adaptation over a generated stream of 200,000 tokens with 500 updates: trains the quickstart's model twice, on documents whose facts are
# stated once (plain) and on documents where half of them are updated (updates), and asks both, and what reads other tokens with the weights
# of the second, at lags of 0 to 131,072 tokens.
#   scripts/reproduce/fact_stream.sh [FOLDER]      default: runs/fact_stream
# Two runs at a time, one thread each; about ten minutes. Leaves FOLDER/{results.json,table.md,probes.jsonl,report/}. A second call does
# only what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:-}" in
  -h | --help) sed -n '2,7s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
[ $# -le 1 ] || { echo "usage: scripts/reproduce/fact_stream.sh [FOLDER]" >&2; exit 2; }
OUT="${1:-runs/fact_stream}"
ROWS=window,random,bm25,oracle_evidence,question_only,constant

declare -A DATA=([plain]=facts_512 [updates]=updates_512)

make_data() {
  mkdir -p "$OUT"
  local documents=(--set train_documents=11200 --set validation_documents=256)
  [ -f "$OUT/data/facts_512.h5" ] || build/bin/dsrsq-data synth --output "$OUT/data" --name facts_512 "${documents[@]}" >/dev/null
  [ -f "$OUT/data/updates_512.h5" ] ||
    build/bin/dsrsq-data synth --output "$OUT/data" --name updates_512 --set updates=12 "${documents[@]}" >/dev/null
  [ -f "$OUT/stream.jsonl" ] || build/bin/dsrsq-data stream --output "$OUT/stream.jsonl"
}

# train_row NAME
train_row() {
  build/bin/dsrsq-train --config quickstart.yaml --set "data.tokenizer=$OUT/data/tokenizer.json" --set "data.train=$OUT/data/${DATA[$1]}.h5" \
    --output-dir "$OUT/$1" 2>&1 | sed -u "s/^/[$1] /"
}

train_rows() {
  local row
  for row in plain updates; do start_run train_row $row; done
  finish_runs
}

evaluate() {
  build/bin/dsrsq-eval --stream "$OUT/stream.jsonl" --checkpoint "dsrsq=$(last_checkpoint "$OUT/updates")" \
    --checkpoint "dsrsq_plain=$(last_checkpoint "$OUT/plain")" --methods $ROWS --output-dir "$OUT"
}

stage "set-up and programs" scripts/setup.sh --programs-only
stage "data" make_data
stage "training" train_rows
stage "evaluation" evaluate
stage "report" .venv/bin/python scripts/plot.py --title "A stream of facts" --results "$OUT/results.json" --runs "updates=$OUT/updates" \
  "plain=$OUT/plain" --output "$OUT/report"
print_stages
