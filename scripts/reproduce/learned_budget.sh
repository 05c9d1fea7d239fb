#!/usr/bin/env bash
# The learned budget on questions that need one fact or two (configs/experiments/budget.yaml), three seeds.
#   scripts/reproduce/learned_budget.sh [SEED...]      default: 0 1 2
# Two runs at a time, one thread each; about ten minutes. Leaves runs/learned_budget/{table.md,results.json,eval/}. A second call
# does only what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
SEEDS=("$@")
[ ${#SEEDS[@]} -gt 0 ] || SEEDS=(0 1 2)
OUT=runs/learned_budget

make_data() {
  mkdir -p $OUT/data
  [ -f $OUT/data/facts_512.h5 ] || build/bin/dsrsq-data synth --output $OUT/data --name facts_512 --set two_fact_share=0.5 \
    --set train_documents=9000 --set validation_documents=256 >/dev/null
  [ -f $OUT/data/facts_64.h5 ] || build/bin/dsrsq-data synth --output $OUT/data --name facts_64 --set two_fact_share=0.5 \
    --set context_tokens=64 --set facts=4 --set train_documents=6400 --set validation_documents=8 --set test_documents=8 >/dev/null
}

train_row() {
  build/bin/dsrsq-train --config configs/experiments/budget.yaml --seed "$1" --output-dir "$OUT/learned-$1" 2>&1 | sed -u "s/^/[$1] /"
}

train_rows() {
  local seed
  for seed in "${SEEDS[@]}"; do start_run train_row "$seed"; done
  finish_runs
}

evaluate() {
  local seed checkpoints=()
  for seed in "${SEEDS[@]}"; do checkpoints+=(--checkpoint "learned-$seed=$(last_checkpoint "$OUT/learned-$seed")"); done
  build/bin/dsrsq-eval "${checkpoints[@]}" --set eval.latency_questions=0 --output-dir $OUT/eval >/dev/null
}

case "${1:-}" in -h | --help) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
stage "set-up and programs" scripts/setup.sh --programs-only
stage "data" make_data
stage "training" train_rows
stage "evaluation" evaluate
stage "table" .venv/bin/python scripts/reproduce/by_question.py kinds --eval $OUT/eval --rows learned --seeds "${SEEDS[@]}" --target 0.04 \
  --output $OUT/table.md
cp $OUT/eval/results.json $OUT/results.json
print_stages
