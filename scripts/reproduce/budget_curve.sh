#!/usr/bin/env bash
# Quality against bytes held: methods that evict keys and values or choose passages, on one reader and one set of real questions, at equal
# budgets, beside dense attention and the controls.
#   scripts/reproduce/budget_curve.sh FILE [cuda|cpu|smoke] [READER]     FILE: nq-open-oracle.jsonl.gz of lost-in-the-middle
# READER: a run whose weights all methods read with, such as the dense one of smollm2_nq.sh, runs/smollm2_nq/dense; default: SmolLM2 as it
# is. cpu (the default): 50 questions of ten passages, 12 and 50 %, the first methods: hours on two busy cores, to be measured. cuda: the
# whole test split of ten and twenty passages, six budgets, the question hidden from the compressor and shown. smoke: two questions on 300
# tokens, to see that everything runs. Finished rows are kept: interrupted, the same command continues. Leaves
# runs/smollm2_nq/budget_curve/<preset>/<case>/{results.json,questions.jsonl,curve.md,curve.png}.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:--h}" in -h | --help) sed -n '2,9s/^# //p' "${BASH_SOURCE[0]}"; exit 2 ;; esac
INPUT="$1"
PRESET="${2:-cpu}"
READER="${3:-}"
source scripts/reproduce/smollm2_nq_data.sh
FIRST=rag,snapkv,pyramid,razor,streaming_llm,attention_rag,random_eviction
METHODS=$FIRST,h2o,quest,longrag,squeeze,kv_compress,oracle_attention
DEVICE=cpu BUDGETS=12%,50% CASES=(10:hidden)
OPTIONS=(--set eval.batch_size=1 --set eval.latency_questions=5)
case "$PRESET" in
  # The head search of razor reads a shorter text than its paper's 2,500 tokens.
  cpu) METHODS=$FIRST OPTIONS+=(--set eval.questions=50 --set razor.search_tokens=500) ;;
  smoke) OPTIONS+=(--set eval.questions=2 --set eval.latency_questions=0 --set data.maximum_context=300 --set razor.search_tokens=50) ;;
  cuda)
    DEVICE=cuda BUDGETS=3%,6%,12%,25%,50%,100% CASES=(10:hidden 10:shown 20:hidden 20:shown)
    OPTIONS=(--set eval.batch_size=32 --set eval.latency_questions=20)
    ;;
  *) echo "budget_curve.sh: expected cuda, cpu or smoke, got $PRESET" >&2; exit 2 ;;
esac
OUT=$DATA/budget_curve/$PRESET${READER:+_$(basename "$READER")}

evaluate() {
  local case query_aware
  local reader=(--checkpoint dense=runs/smollm2 --config configs/smollm2_nq/dense.yaml)
  [ -z "$READER" ] || reader=(--checkpoint dense="$(last_checkpoint "$READER")")
  for case in "${CASES[@]}"; do
    query_aware=$([ "${case#*:}" = shown ] && echo true || echo false)
    start_run "$BIN/dsrsq-eval" "${reader[@]}" --device "$DEVICE" --methods "$METHODS" \
      --budget "$BUDGETS" --set data.train="$DATA/nq_${case%:*}.h5" --set eviction.query_aware="$query_aware" "${OPTIONS[@]}" \
      --output-dir "$OUT/${case/:/_}"
    finish_runs
  done
}

draw() {
  local case
  for case in "${CASES[@]}"; do .venv/bin/python scripts/reproduce/budget_curve.py "$OUT/${case/:/_}"; done
}

stage "set-up and programs" set_up
stage "SmolLM2" import_models
stage "data" prepare_data
stage "evaluation" evaluate
stage "tables and figures" draw
print_stages
