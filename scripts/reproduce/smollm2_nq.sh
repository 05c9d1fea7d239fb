#!/usr/bin/env bash
# All four parts on a pretrained model (configs/smollm2_nq.yaml): import, prepare real questions, train DSRSQ and dense attention for as
# many steps, compare on unseen questions.
#   scripts/reproduce/smollm2_nq.sh FILE [cuda|cpu]     FILE: nq-open-oracle.jsonl.gz of lost-in-the-middle
# cuda (the default): what data/results/smollm2_nq_*.json holds, minutes on one GPU. cpu: the same path in few steps on few questions, about
# 20 minutes on two cores; it shows that everything runs and proves nothing about quality. Leaves runs/smollm2_nq/{dsrsq,dense,eval_*}.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:--h}" in -h | --help) sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"; exit 2 ;; esac
INPUT="$1"
DEVICE="${2:-cuda}"
source scripts/reproduce/smollm2_nq_data.sh
FEW_STEPS=() FEW_DENSE_STEPS=() QUESTIONS=(--set eval.batch_size=128)
if [ "$DEVICE" = cpu ]; then
  export DSRSQ_JOBS=1   # a run takes all cores
  few=(--set train.precision=fp32 --set train.batch_size=2 --set train.evaluate_every=0)
  FEW_STEPS=("${few[@]}" --set stages.0.steps=40 --set stages.1.steps=20 --set stages.2.steps=20 --set stages.3.steps=2)
  FEW_DENSE_STEPS=("${few[@]}" --set stages.0.steps=40)
  QUESTIONS=(--set eval.batch_size=4 --set eval.questions=40)
fi

train() {
  start_run "$BIN/dsrsq-train" --config configs/smollm2_nq.yaml --device "$DEVICE" "${FEW_STEPS[@]}" --output-dir $DATA/dsrsq
  start_run "$BIN/dsrsq-train" --config configs/smollm2_nq/dense.yaml --device "$DEVICE" "${FEW_DENSE_STEPS[@]}" --output-dir $DATA/dense
  finish_runs
}

evaluate() {
  local selectors=bm25_top_passage,oracle_passage,question_only dsrsq dense
  dsrsq="$(last_checkpoint $DATA/dsrsq)" dense="$(last_checkpoint $DATA/dense)"
  # What DSRSQ's reader makes of its own choice and of others, some of as many bytes, beside dense attention.
  start_run "$BIN/dsrsq-eval" --checkpoint dsrsq="$dsrsq" --checkpoint dense="$dense" --methods random,bm25,$selectors --baseline dense \
    --device "$DEVICE" "${QUESTIONS[@]}" --output-dir $DATA/eval_dsrsq
  # The dense reader, given less to read.
  start_run "$BIN/dsrsq-eval" --checkpoint dense="$dense" --methods $selectors --baseline dense --device "$DEVICE" "${QUESTIONS[@]}" \
    --output-dir $DATA/eval_dense
  # Before any training.
  start_run "$BIN/dsrsq-eval" --checkpoint untrained=runs/smollm2 --config configs/smollm2_nq/dense.yaml --methods $selectors \
    --device "$DEVICE" "${QUESTIONS[@]}" --output-dir $DATA/eval_untrained
  finish_runs
}

stage "set-up and programs" set_up
stage "SmolLM2 and MiniLM" import_models
stage "data" prepare_data
stage "training" train
stage "evaluation" evaluate
print_stages
