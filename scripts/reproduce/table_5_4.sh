#!/usr/bin/env bash
# Table 5.4, ablation: F1, peak memory and throughput of DSRSQ as trained, and trained as long without its retriever, without sparse query
# attention, without the compressed cache.
source "$(dirname "${BASH_SOURCE[0]}")/tables.sh"
prepare

train_ablations() {
  train_row dsrsq configs/smollm2_nq.yaml "${STEPS[@]}"
  for part in sqa rckv; do train_row no_$part configs/smollm2_nq/no_$part.yaml "${STEPS[@]}"; done
  train_row no_dsr configs/smollm2_nq/no_dsr.yaml "${TWO_STAGES[@]}"
  finish_runs
}

evaluate_ablations() {
  local rows=() row
  for row in dsrsq no_dsr no_sqa no_rckv; do rows+=(--checkpoint "$row=$(last_checkpoint "$TABLES/$row")"); done
  "$BIN/dsrsq-eval" "${rows[@]}" --device "$DEVICE" "${EVALUATION[@]}" --columns f1,peak_memory,throughput,bytes_held,tokens_read \
    --output-dir "$TABLES/ablation"
}

stage "training" train_ablations
stage "table 5.4" evaluate_ablations
print_stages
