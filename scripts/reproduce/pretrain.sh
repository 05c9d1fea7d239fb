#!/usr/bin/env bash
# Pre-training on plain text and code: trains configs/pretrain/small.yaml, the same with each part switched off, and the standard transformer,
# on the same texts and for as many steps; then measures the perplexity of unseen texts against how much of them may be read.
#   scripts/reproduce/pretrain.sh [--size small|medium] [--device cuda] TEXT...
# TEXT: text files, folders of code, *.jsonl.gz (format text, data/README.md). DSRSQ_JOBS (2) runs at a time; small: one thread
# each, 40 minutes on two cores that others used, too; medium is for a GPU. Leaves runs/pretrain/SIZE/{results.json,table.md,texts.jsonl,report/}; a
# second call does what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
SIZE=small
DEVICE=cpu
TEXTS=()
while [ $# -gt 0 ]; do
  case "$1" in
    --size) SIZE="$2"; shift 2 ;;
    --device) DEVICE="$2"; shift 2 ;;
    -h | --help) sed -n '2,8s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) TEXTS+=("$1"); shift ;;
  esac
done
declare -A LENGTHS=([small]=64,128,256,512,1024,2048 [medium]=128,256,512,1024,2048,4096) SCORED=([small]=256 [medium]=512)
[ ${#TEXTS[@]} -gt 0 ] && [ -n "${LENGTHS[$SIZE]:-}" ] ||
  { echo "usage: scripts/reproduce/pretrain.sh [--size small|medium] [--device cuda] TEXT..." >&2; exit 2; }
DATA=runs/pretrain
OUT=$DATA/$SIZE
ROWS=(dense dsrsq no_dsr no_sqa no_rckv)
# The standard transformer has no retriever that its attention could teach.
declare -A CHANGE=([dense]="method=standard loss.retrieval_target=evidence" [dsrsq]="" [no_dsr]="dsr.enabled=false" [no_sqa]="sqa.enabled=false"
  [no_rckv]="rckv.enabled=false")

make_data() {
  mkdir -p $DATA
  [ -f $DATA/text.jsonl ] || build/bin/dsrsq-data prepare "${TEXTS[@]}" --format text --output $DATA/text.jsonl
  [ -f $DATA/tokenizer.json ] || .venv/bin/python scripts/train_tokenizer.py --input $DATA/text.jsonl --format jsonl --fields context \
    --vocab-size 2048 --output $DATA/tokenizer.json
  [ -f $DATA/text.h5 ] || build/bin/dsrsq-data prepare $DATA/text.jsonl --format text --tokenizer $DATA/tokenizer.json \
    --output $DATA/text.h5 --split train=0.8,validation=0.05,test=0.15
}

# train_row NAME
train_row() {
  local change settings=()
  for change in ${CHANGE[$1]}; do settings+=(--set "$change"); done
  build/bin/dsrsq-train --config "pretrain/$SIZE.yaml" --device "$DEVICE" "${settings[@]}" --output-dir "$OUT/$1" 2>&1 | sed -u "s/^/[$1] /"
}

train_rows() {
  local row
  for row in "${ROWS[@]}"; do start_run train_row "$row"; done
  finish_runs
}

evaluate() {
  local row checkpoints=()
  for row in "${ROWS[@]}"; do checkpoints+=(--checkpoint "$row=$(last_checkpoint "$OUT/$row")"); done
  build/bin/dsrsq-eval "${checkpoints[@]}" --context-lengths "${LENGTHS[$SIZE]}" --scored-tokens "${SCORED[$SIZE]}" --output-dir "$OUT"
}

report() {
  local row runs=()
  for row in "${ROWS[@]}"; do runs+=("$row=$OUT/$row"); done
  .venv/bin/python scripts/plot.py --title "Pre-training on texts and code" --results "$OUT/results.json" --runs "${runs[@]}" --output "$OUT/report"
}

stage "set-up and programs" scripts/setup.sh --programs-only
stage "data" make_data
stage "training" train_rows
stage "evaluation" evaluate
stage "report" report
print_stages
