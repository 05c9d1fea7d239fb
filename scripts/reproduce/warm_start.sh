#!/usr/bin/env bash
# A warm start of DSRSQ on SmolLM2, on a CPU, in minutes a seed (configs/smollm2_nq/warm_start.yaml).
#   scripts/reproduce/warm_start.sh FILE [SEED...]      FILE: nq-open-oracle.jsonl.gz of lost-in-the-middle; default seeds: 0 1 2
# Prints, and leaves in runs/warm_start/table.md: on unseen questions with 20 passages the recall of answer tokens among 512 read, beside BM25
# and random tokens, and each layer's compression error beside the floor of its principal components.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:--h}" in -h | --help) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; exit 2 ;; esac
INPUT="$1"
shift
SEEDS=("$@")
[ ${#SEEDS[@]} -gt 0 ] || SEEDS=(0 1 2)
OUT=runs/warm_start
source scripts/reproduce/smollm2_nq_data.sh

train_rows() {
  local seed
  for seed in "${SEEDS[@]}"; do
    "$BIN/dsrsq-train" --config configs/smollm2_nq/warm_start.yaml --seed "$seed" --output-dir "$OUT/seed_$seed"
  done
}

# Random and BM25 tokens know nothing of the training: one seed's run has their rows.
evaluate() {
  local seed controls=(--methods random,bm25)
  for seed in "${SEEDS[@]}"; do
    "$BIN/dsrsq-eval" --checkpoint dsrsq="$OUT/seed_$seed" --set data.train=$DATA/nq_20.h5 --budget 512 "${controls[@]}" \
      --columns answer_recall,evidence_recall,tokens_read --output-dir "$OUT/seed_$seed/eval"
    controls=()
  done
}

stage "set-up and programs" set_up
stage "SmolLM2 and MiniLM" import_models
stage "data" prepare_data
stage "training" train_rows
stage "evaluation" evaluate
stage "table" "${PYTHON:-.venv/bin/python}" scripts/reproduce/warm_start.py "${SEEDS[@]/#/$OUT/seed_}" --output $OUT/table.md
print_stages
