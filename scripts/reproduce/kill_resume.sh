#!/usr/bin/env bash
# A run is killed with SIGKILL again and again, at seeded random moments of its start, its steps, its held-out questions and its
# checkpoints, and started again by the same command; it must end with the bytes of the run that was left alone.
#   scripts/reproduce/kill_resume.sh [KILLS] [SEED]      default: 50 0
# One core; two to three minutes. Leaves runs/kill_resume. What is checked, and the figures: kill_resume.py.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
KILLS="${1:-50}"
SEED="${2:-0}"
OUT=runs/kill_resume
rm -rf $OUT
mkdir -p $OUT

# A checkpoint every 4 steps, held-out answers every 3: each kill costs at most two checkpoints of progress, so that twice as many
# are enough for all kills to fall inside the run.
make_inputs() {
  build/bin/dsrsq-data synth --output $OUT/data --name facts --set context_tokens=64 --set facts=4 --set names=12 \
    --set attributes=8 --set values=24 --set filler_words=16 --set train_documents=64 --set validation_documents=16 \
    --set test_documents=8 >/dev/null
  cat >$OUT/tiny.yaml <<YAML
data: {tokenizer: $OUT/data/tokenizer.json, train: $OUT/data/facts.h5, questions_per_sequence: 2}
prompt: {question: " ask {question} ?"}
model: {layers: 2, width: 64, heads: 4, key_value_heads: 2, mlp_width: 96, sinks: 2}
dsr: {width: 32, budget: 32, alpha: 0, complexity: none}
sqa: {clusters: 8, clusters_per_query: 2, window: 4}
rckv: {latent_width: 8, buffer_length: 6, window: 8, segment: 16, calibration_sequences: 8}
loss: {ramp_steps: 10}
optimizer: {learning_rate: 1.0e-2, warmup_steps: 4}
train: {threads: 1, batch_size: 4, log_every: 1, evaluate_every: 3, evaluate_answers: true, evaluation_batches: 2, checkpoint_every: 4, keep_checkpoints: 3}
eval: {maximum_tokens: 3}
stages:
  - {name: dense, steps: $((KILLS * 2)), sqa: false, rckv: false}
  - {name: joint, steps: $((KILLS * 6 + 8))}
YAML
}

stage "data and config" make_inputs
stage "$KILLS kills" python3 scripts/reproduce/kill_resume.py --kills "$KILLS" --seed "$SEED" --runs $OUT -- \
  build/bin/dsrsq-train --config $OUT/tiny.yaml
print_stages
