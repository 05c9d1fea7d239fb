#!/usr/bin/env bash
# Table 5.3, adaptation: information retention, the share of what a method answers with the fact right before the question that is left when
# the fact stands in the middle or at the beginning of the text, above answering without any text. Temporal consistency and adaptation speed
# need facts that change while the text is read, which these questions do not have.
source "$(dirname "${BASH_SOURCE[0]}")/tables.sh"
prepare

prepare_positions() {
  local gold
  for gold in first last; do
    [ -f "$DATA/nq_10_$gold.h5" ] || "$BIN/dsrsq-data" prepare "$INPUT" --format lost_in_the_middle --documents 10 --gold $gold \
      --tokenizer runs/smollm2/tokenizer.json --output "$DATA/nq_10_$gold.h5" --split "$SPLIT"
  done
}

evaluate_positions() {
  local gold
  evaluate_main "$TABLES/main" f1,em >/dev/null   # the fact in the middle
  for gold in first last; do
    evaluate_main "$TABLES/gold_$gold" f1,em --set data.train="$DATA/nq_10_$gold.h5" >/dev/null
  done
  .venv/bin/python scripts/reproduce/retention.py last="$TABLES/gold_last" middle="$TABLES/main" first="$TABLES/gold_first" |
    tee "$TABLES/table_5_3.md"
}

stage "data by position" prepare_positions
stage "training" train_main
stage "table 5.3" evaluate_positions
print_stages
