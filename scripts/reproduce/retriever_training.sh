#!/usr/bin/env bash
# How a retriever learns: from the reader's attention (kl), from reward (rl, with one advantage for all picks or leave-one-out
# credit), from one and then the other (kl_rl), or from evidence labels (supervised); 32, 128 and 512 of 2,048 tokens. All rows of
# a budget start from the same reader and cost as many sequences that it reads (KL reads whole documents of 64 tokens; labels need
# no reading, that row is given as many questions).
#   scripts/reproduce/retriever_training.sh [SEED...]      default: 0
# CPU preset: two runs at a time, one thread each; about a quarter of an hour a seed. Leaves runs/retriever_training/{table.md,figure.png,
# figure.svg,results.json}. A second call does only what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
SEEDS=("$@")
[ ${#SEEDS[@]} -gt 0 ] || SEEDS=(0)
OUT=runs/retriever_training
BUDGETS=(32 128 512)
ROWS=(kl supervised rl_shared rl_span_loo kl_rl_shared kl_rl_span_loo)
declare -A CALLS=([32]=16000 [128]=6000 [512]=2400)  # sequences that the reader reads, a run
BATCH=8 DRAWS=4 GROUPS_OF_PICKS=8

make_data() {
  mkdir -p $OUT/data
  local name
  for name in 512 64 2048; do
    [ -f $OUT/data/facts_$name.h5 ] && continue
    case $name in
      512) set -- --set train_documents=4000 --set validation_documents=8 --set test_documents=8 ;;
      64) set -- --set context_tokens=64 --set facts=4 --set train_documents=6400 --set validation_documents=8 --set test_documents=8 ;;
      2048) set -- --set context_tokens=2048 --set facts=96 --set train_documents=3000 --set validation_documents=64 --set test_documents=256 ;;
    esac
    build/bin/dsrsq-data synth --output $OUT/data --name facts_$name "$@" >/dev/null
  done
}

# Options of one run: the two stages, and how many steps make up the budget of readings.
row_options() {
  local row="$1" budget="$2" calls="${CALLS[$2]}" first second
  local group=$((budget / GROUPS_OF_PICKS))
  local shared=$((BATCH * (DRAWS + 1))) loo=$((BATCH * (DRAWS * (GROUPS_OF_PICKS + 1) + 1)))
  local teacher=(--set stages.0.selection=all --set stages.0.data=$OUT/data/facts_64.h5 --set stages.0.retrieval_negatives=batch
    --set loss.retrieval_target=attention)
  local step=$BATCH
  case $row in *_span_loo) step=$loo ;; rl_* | kl_rl_*) step=$shared ;; esac
  case $row in
    kl) first=$((calls / BATCH - 1)) second=1; set -- "${teacher[@]}" --set stages.0.ppo=false --set stages.1.ppo=false ;;
    supervised) first=1 second=$((calls / BATCH - 1)); set -- --set stages.0.ppo=false --set stages.1.ppo=false ;;
    rl_*) first=1 second=$((calls / step - 1)); set -- ;;
    kl_rl_*) first=$((calls / 4 / BATCH)) second=$((calls * 3 / 4 / step)); set -- "${teacher[@]}" --set stages.0.ppo=false ;;
  esac
  local every=$(((first + second) / 8))
  case $row in kl_rl_*) every=$((second / 7)) ;; esac  # the second stage is the slow one
  # As in configs/experiments/no_labels_kl_rl.yaml: a retriever that chooses well already is unlearnt by wide draws.
  case $row in kl_rl_*) set -- "$@" --set ppo.temperature=0.25 --set ppo.learning_rate=3e-4 --set ppo.entropy=0 ;; esac
  case $row in *_span_loo) set -- "$@" --set ppo.credit=span_loo --set ppo.credit_group=$group ;; esac
  printf '%s\n' "$@" --set dsr.budget="$budget" --set stages.0.steps=$first --set stages.1.steps=$second \
    --set train.evaluate_every=$((every > 0 ? every : 1)) --set train.checkpoint_every=$((first + second))
}

train_reader() {
  build/bin/dsrsq-train --config configs/experiments/credit_reader.yaml --set train.threads=2 --output-dir $OUT/reader
}

train_row() {
  local row="$1" budget="$2" seed="$3" options
  mapfile -t options < <(row_options "$row" "$budget")
  build/bin/dsrsq-train --config configs/experiments/credit.yaml "${options[@]}" --seed "$seed" \
    --output-dir "$OUT/$row-$budget-$seed" 2>&1 | sed -u "s/^/[$row $budget $seed] /"
}

train_rows() {
  local row budget seed
  for seed in "${SEEDS[@]}"; do
    for budget in 512 128 32; do  # the slowest first
      for row in "${ROWS[@]}"; do start_run train_row "$row" $budget "$seed"; done
    done
  done
  finish_runs
}

case "${1:-}" in -h | --help) sed -n '2,8s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
stage "set-up and programs" scripts/setup.sh --programs-only
stage "data" make_data
stage "reader" train_reader
stage "retrievers" train_rows
stage "figure and table" .venv/bin/python scripts/reproduce/retriever_training.py --runs $OUT --rows "${ROWS[@]}" \
  --budgets "${BUDGETS[@]}" --seeds "${SEEDS[@]}"
print_stages
