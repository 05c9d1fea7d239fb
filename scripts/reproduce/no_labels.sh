#!/usr/bin/env bash
# The quickstart's facts without evidence labels, three seeds: KL to the reader's attention, KL and then reward with 28 % fewer
# tokens, its control (as many steps and tokens, KL to the end), and reward alone from a weak start.
#   scripts/reproduce/no_labels.sh [SEED...]      default: 0 1 2
# Two runs at a time, one thread each; about twenty minutes. Leaves runs/no_labels/{table.md,results.json,eval/}. A second call
# does only what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
SEEDS=("$@")
[ ${#SEEDS[@]} -gt 0 ] || SEEDS=(0 1 2)
OUT=runs/no_labels
ROWS=(kl kl_rl kl_23 rl)

make_data() {
  mkdir -p $OUT/data
  [ -f $OUT/data/facts_512.h5 ] || build/bin/dsrsq-data synth --output $OUT/data --name facts_512 \
    --set train_documents=11200 --set validation_documents=256 >/dev/null
  [ -f $OUT/data/facts_64.h5 ] || build/bin/dsrsq-data synth --output $OUT/data --name facts_64 --set context_tokens=64 --set facts=4 \
    --set train_documents=6400 --set validation_documents=8 --set test_documents=8 >/dev/null
}

# train_row ROW SEED [OPTION...]
train_row() {
  local row="$1" seed="$2"
  shift 2
  build/bin/dsrsq-train --config "configs/experiments/no_labels_$row.yaml" --seed "$seed" --output-dir "$OUT/$row-$seed" "$@" 2>&1 |
    sed -u "s/^/[$row $seed] /"
}

# KL first: the other rows start from its weights.
train_rows() {
  local row seed
  for seed in "${SEEDS[@]}"; do start_run train_row kl "$seed"; done
  finish_runs
  for row in rl kl_rl kl_23; do
    for seed in "${SEEDS[@]}"; do
      start_run train_row "$row" "$seed" --set "train.start_from=$(last_checkpoint "$OUT/kl-$seed")"
    done
  done
  finish_runs
}

evaluate() {
  local row seed checkpoints=()
  for row in "${ROWS[@]}"; do
    for seed in "${SEEDS[@]}"; do checkpoints+=(--checkpoint "$row-$seed=$(last_checkpoint "$OUT/$row-$seed")"); done
  done
  build/bin/dsrsq-eval "${checkpoints[@]}" --set eval.latency_questions=0 --output-dir $OUT/eval >/dev/null
}

case "${1:-}" in -h | --help) sed -n '2,7s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
stage "set-up and programs" scripts/setup.sh --programs-only
stage "data" make_data
stage "training" train_rows
stage "evaluation" evaluate
stage "table" .venv/bin/python scripts/reproduce/by_question.py compare --eval $OUT/eval --rows "${ROWS[@]}" --seeds "${SEEDS[@]}" \
  --output $OUT/table.md
cp $OUT/eval/results.json $OUT/results.json
print_stages
