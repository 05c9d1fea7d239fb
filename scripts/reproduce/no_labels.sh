#!/usr/bin/env bash
# The quickstart's facts without evidence labels, three seeds: KL to the reader's attention, KL and then reward with a learned
# budget, and reward alone from a weak start.
#   scripts/reproduce/no_labels.sh [SEED...]      default: 0 1 2
# Two runs at a time, one thread each; about fifteen minutes. Leaves runs/no_labels/{table.md,results.json,eval/}. A second call
# does only what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
SEEDS=("$@")
[ ${#SEEDS[@]} -gt 0 ] || SEEDS=(0 1 2)
OUT=runs/no_labels
ROWS=(kl_rl kl rl)  # longest first

make_data() {
  mkdir -p $OUT/data
  [ -f $OUT/data/facts_512.h5 ] || build/bin/dsrsq-data synth --output $OUT/data --name facts_512 \
    --set train_documents=11200 --set validation_documents=256 >/dev/null
  [ -f $OUT/data/facts_40.h5 ] || build/bin/dsrsq-data synth --output $OUT/data --name facts_40 --set context_tokens=40 --set facts=4 \
    --set train_documents=6400 --set validation_documents=8 --set test_documents=8 >/dev/null
}

train_rows() {
  local row seed
  for row in "${ROWS[@]}"; do
    for seed in "${SEEDS[@]}"; do
      while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
      build/bin/dsrsq-train --config "configs/experiments/no_labels_$row.yaml" --seed "$seed" --output-dir "$OUT/$row-$seed" 2>&1 |
        sed -u "s/^/[$row $seed] /" &
    done
  done
  while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n; done
}

# The last weights of every run, not its best: the stages read different numbers of tokens.
evaluate() {
  local row seed checkpoints=()
  for row in "${ROWS[@]}"; do
    for seed in "${SEEDS[@]}"; do
      checkpoints+=(--checkpoint "$row-$seed=$(find "$OUT/$row-$seed/checkpoints" -maxdepth 1 -name 'step-*' | sort | tail -n 1)")
    done
  done
  build/bin/dsrsq-eval "${checkpoints[@]}" --set eval.latency_questions=0 --output-dir $OUT/eval >/dev/null
  # KL alone with as few tokens as reward is driven to: what is the policy's own, and what any 23 tokens would do?
  checkpoints=()
  for seed in "${SEEDS[@]}"; do
    checkpoints+=(--checkpoint "kl_at_23-$seed=$(find "$OUT/kl-$seed/checkpoints" -maxdepth 1 -name 'step-*' | sort | tail -n 1)")
  done
  build/bin/dsrsq-eval "${checkpoints[@]}" --budget 23 --set eval.latency_questions=0 --output-dir $OUT/eval_at_23 >/dev/null
}

case "${1:-}" in -h | --help) sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
stage "set-up and programs" scripts/setup.sh --programs-only
stage "data" make_data
stage "training" train_rows
stage "evaluation" evaluate
stage "table" .venv/bin/python scripts/reproduce/by_question.py compare --eval $OUT/eval $OUT/eval_at_23 --rows kl kl_rl kl_at_23 rl --seeds "${SEEDS[@]}" \
  --output $OUT/table.md
cp $OUT/eval/results.json $OUT/results.json
print_stages
