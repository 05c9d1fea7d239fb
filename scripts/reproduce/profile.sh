#!/usr/bin/env bash
# Where a training step's time goes: all four parts on, width 256, batch 8, 512 tokens of context, one thread.
#   scripts/reproduce/profile.sh
# Leaves runs/profile/train/profile/{trace.json,table.md}; the trace opens in ui.perfetto.dev.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:-}" in -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
OUT=runs/profile

make_data() {
  [ -f $OUT/data/facts_512.h5 ] || build/bin/dsrsq-data synth --output $OUT/data --name facts_512 --set train_documents=400 \
    --set validation_documents=8 --set test_documents=8 >/dev/null
}

# The first three stages in one step each, so that the steps that are recorded are of the last.
train() {
  rm -rf $OUT/train
  build/bin/dsrsq-train --config quickstart.yaml --set data.tokenizer=$OUT/data/tokenizer.json --set data.train=$OUT/data/facts_512.h5 \
    --set model.width=256 --set model.heads=8 --set model.key_value_heads=8 --set model.mlp_width=672 --set stages.0.steps=1 \
    --set stages.1.steps=1 --set stages.2.steps=1 --set stages.3.steps=30 --set train.evaluate_every=0 --set train.checkpoint_every=1000 \
    --profile 15:3 --output-dir $OUT/train
}

stage "set-up and programs" scripts/setup.sh --programs-only
mkdir -p $OUT/data
stage "data" make_data
stage "training" train
cat $OUT/train/profile/table.md
print_stages
