#!/usr/bin/env bash
# Pre-training on plain text and code: trains configs/pretrain/{small,no_dsr,no_sqa,no_rckv,standard}.yaml on the same texts and steps, then
# measures the perplexity of unseen texts against how much of them may be read.
#   scripts/reproduce/pretrain.sh TEXT...      text files, folders of code, *.jsonl.gz (format text, data/README.md)
# Two runs at a time, one thread each; about ten minutes. Leaves runs/pretrain/{results.json,table.md,texts.jsonl,report/}. A second call does
# only what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:-}" in
  "" | -h | --help) sed -n '2,7s/^# //p' "${BASH_SOURCE[0]}"; exit $(($# == 0 ? 2 : 0)) ;;
esac
OUT=runs/pretrain
LENGTHS=64,128,256,512,1024,2048
declare -A CONFIG=([dsrsq]=small [no_dsr]=no_dsr [no_sqa]=no_sqa [no_rckv]=no_rckv [dense]=standard)
ROWS=(dsrsq no_dsr no_sqa no_rckv dense)

make_data() {
  mkdir -p $OUT
  [ -f $OUT/text.jsonl ] || build/bin/dsrsq-data prepare "$@" --format text --output $OUT/text.jsonl
  [ -f $OUT/tokenizer.json ] || .venv/bin/python scripts/train_tokenizer.py --input $OUT/text.jsonl --format jsonl --fields context \
    --vocab-size 2048 --output $OUT/tokenizer.json
  [ -f $OUT/text.h5 ] || build/bin/dsrsq-data prepare $OUT/text.jsonl --format text --tokenizer $OUT/tokenizer.json --output $OUT/text.h5 \
    --split train=0.8,validation=0.05,test=0.15
}

# train_row NAME
train_row() {
  build/bin/dsrsq-train --config "pretrain/${CONFIG[$1]}.yaml" --output-dir "$OUT/$1" 2>&1 | sed -u "s/^/[$1] /"
}

train_rows() {
  local row
  for row in "${ROWS[@]}"; do start_run train_row "$row"; done
  finish_runs
}

evaluate() {
  local row checkpoints=()
  for row in dense "${ROWS[@]:0:4}"; do checkpoints+=(--checkpoint "$row=$(last_checkpoint "$OUT/$row")"); done
  build/bin/dsrsq-eval "${checkpoints[@]}" --context-lengths $LENGTHS --scored-tokens 256 --output-dir $OUT
}

report() {
  local row runs=()
  for row in "${ROWS[@]}"; do runs+=("$row=$OUT/$row"); done
  .venv/bin/python scripts/plot.py --title "Pre-training on texts and code" --results $OUT/results.json --runs "${runs[@]}" --output $OUT/report
}

stage "set-up and programs" scripts/setup.sh --programs-only
stage "data" make_data "$@"
stage "training" train_rows
stage "evaluation" evaluate
stage "report" report
print_stages
