#!/usr/bin/env bash
# Quality against bytes held: methods that evict keys and values or choose passages, on one reader and one set of real questions, at equal
# budgets, beside dense attention and the controls.
#   scripts/reproduce/budget_curve.sh FILE [cuda|cpu|smoke] [READER]     FILE: nq-open-oracle.jsonl.gz of lost-in-the-middle
# READER: a run on this script's data whose weights all methods read with; where there is none yet, SmolLM2 is trained into it with dense
# attention (configs/smollm2_nq/dense.yaml); default: SmolLM2 as it is.
# cuda: more than 1,000 questions of twenty and of ten passages, six budgets, the question hidden from the compressor, then shown to it.
# cpu (the default): 100 questions of ten passages, 12 and 50 %, the first methods. smoke: four questions on 300 tokens, to see that
# everything runs. DSRSQ_JOBS (4 on a GPU, else 2) processes share the methods of one case and read each prompt once for all budgets; then
# one process alone measures latency, throughput and bytes. STEPS="answers costs draw" names which of these are run, CASES="10:hidden" on
# what, METHODS=rag,snapkv of whom. Finished rows are kept: interrupted, the same command continues.
# Leaves runs/budget_curve/<preset>/<case>/{results.json,questions.jsonl,curve.md,curve.png}.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:--h}" in -h | --help) sed -n '2,16s/^# //p' "${BASH_SOURCE[0]}"; exit 2 ;; esac
INPUT="$1"
PRESET="${2:-cpu}"
READER="${3:-}"
# More than half of the 2,126 questions are for testing, so that this data is no other script's.
DATA=runs/budget_curve SPLIT=train=0.44,validation=0.05,test=0.51
source scripts/reproduce/smollm2_nq_data.sh
FIRST=rag,snapkv,pyramid,razor,streaming_llm,attention_rag,random_eviction
EVICTION=snapkv,pyramid,razor,streaming_llm,random_eviction,h2o,squeeze,kv_compress   # of the others, showing the question changes nothing
PRESET_METHODS=all DEVICE=cpu BUDGETS=3%,6%,12%,25%,50%,100%
# Units of LongRAG and chunks of AttentionRAG fit contexts of 1,200 to 2,400 tokens; what counts needs is counted on 128 questions.
OPTIONS=(--set rag.unit_tokens=500 --set attention_rag.chunk=300 --set eval.counted_questions=128)
case "$PRESET" in
  # The head search of razor reads a shorter text than its paper's 2,500 tokens.
  cpu)
    JOBS=2 PRESET_CASES=10:hidden PRESET_METHODS=$FIRST BUDGETS=12%,50%
    BATCH=8
    OPTIONS+=(--set eval.questions=100 --set eval.latency_questions=3 --set razor.search_tokens=500)
    # Without AMX a processor is slower in bf16 than in fp32.
    ! grep -qw amx_bf16 /proc/cpuinfo || OPTIONS+=(--set eval.precision=bf16)
    ;;
  smoke)
    JOBS=2 PRESET_CASES="10:hidden 10:shown" BUDGETS=12%,50%
    BATCH=2
    OPTIONS+=(--set eval.questions=4 --set eval.latency_questions=1 --set data.maximum_context=300
              --set razor.search_tokens=50)
    ;;
  cuda)
    JOBS=4 PRESET_CASES="20:hidden 10:hidden 20:shown 10:shown" DEVICE=cuda
    BATCH=0   # 1,920 passages: with four processes about 100 GB
    OPTIONS+=(--set eval.precision=bf16 --set eval.latency_questions=5)
    ;;
  *) echo "budget_curve.sh: expected cuda, cpu or smoke, got $PRESET" >&2; exit 2 ;;
esac
METHODS="${METHODS:-$PRESET_METHODS}"
read -ra CASES <<<"${CASES:-$PRESET_CASES}"
read -ra STEPS <<<"${STEPS-answers costs draw}"
export DSRSQ_JOBS="${DSRSQ_JOBS:-$JOBS}"
OUT=$DATA/$PRESET${READER:+_$(basename "$READER")}

train_reader() {
  [ -z "$READER" ] || [ -n "$(last_checkpoint "$READER" 2>/dev/null)" ] ||
    "$BIN/dsrsq-train" --config configs/smollm2_nq/dense.yaml --device "$DEVICE" --set data.train="$DATA/nq_10.h5" --output-dir "$READER"
}

folder() { echo "$OUT/${1/:/_}"; }

# measure answers|costs CASE
measure() {
  local query_aware=false methods=$METHODS read=(--checkpoint dense=runs/smollm2 --config configs/smollm2_nq/dense.yaml)
  [ -z "$READER" ] || read=(--checkpoint dense="$(last_checkpoint "$READER")")
  local documents=${2%:*} batch=$BATCH
  [ "$batch" -gt 0 ] || batch=$((1920 / documents))
  [ "${2#*:}" = hidden ] || { query_aware=true methods=$EVICTION; }
  "$BIN/dsrsq-eval" "${read[@]}" --device "$DEVICE" --methods "$methods" --budget "$BUDGETS" --set data.train="$DATA/nq_$documents.h5" \
    --set eviction.query_aware=$query_aware --set eval.batch_size=$batch "${OPTIONS[@]}" --output-dir "$(folder "$2")" --measure "$1"
}

# One of DSRSQ_JOBS: what no other process is at.
work() { for one in "${CASES[@]}"; do measure answers "$one"; done; }

answers() {
  local i
  for ((i = 0; i < DSRSQ_JOBS; ++i)); do
    OMP_NUM_THREADS=$(($(nproc) / DSRSQ_JOBS > 0 ? $(nproc) / DSRSQ_JOBS : 1)) start_run work
  done
  finish_runs
}

costs() { for one in "${CASES[@]}"; do measure costs "$one"; done; }

draw() {
  for one in "${CASES[@]}"; do
    "$BIN/dsrsq-eval" --collect "$(folder "$one")/rows" --baseline dense --columns f1,em,subspan_em,bytes_held --output-dir "$(folder "$one")" >/dev/null
    .venv/bin/python scripts/reproduce/budget_curve.py "$(folder "$one")"
  done
}

stage "set-up and programs" set_up
stage "SmolLM2" import_models
stage "data" prepare_data
stage "reader" train_reader
for step in "${STEPS[@]}"; do stage "$step" "$step"; done
print_stages
