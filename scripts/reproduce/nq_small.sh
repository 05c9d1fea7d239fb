#!/usr/bin/env bash
# Natural Questions at a small width, three seeds, each with its own split: about six minutes of one core a seed.
#   scripts/reproduce/nq_small.sh FILE.jsonl.gz [SEED...]
# Prints, and leaves in runs/nq_small/: held-out loss, the fall of the training loss, and the recall of answer spans at a budget of 5 % of
# the context against random tokens and BM25, pooled over the seeds with a bootstrap interval.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ $# -ge 1 ] || { echo "usage: scripts/reproduce/nq_small.sh FILE.jsonl.gz [SEED...]" >&2; exit 2; }
INPUT="$1"
shift
SEEDS=("$@")
[ ${#SEEDS[@]} -gt 0 ] || SEEDS=(0 1 2)
OUT=runs/nq_small
source scripts/reproduce/small_model.sh
mkdir -p $OUT

[ -f $OUT/tokenizer.json ] ||
  .venv/bin/python scripts/train_tokenizer.py --input "$INPUT" --format nq_simplified --vocab-size 8192 --output $OUT/tokenizer.json

for seed in "${SEEDS[@]}"; do
  [ -f "$OUT/nq_$seed.h5" ] ||
    build/bin/dsrsq-data prepare "$INPUT" --format nq_simplified --tokenizer $OUT/tokenizer.json --output "$OUT/nq_$seed.h5" \
      --split train=0.7,validation=0.1,test=0.2 --seed "$seed"
  build/bin/dsrsq-train --config configs/nq.yaml --output-dir "$OUT/seed_$seed" --seed "$seed" "${SMALL[@]}" \
    --set data.tokenizer=$OUT/tokenizer.json --set "data.train=$OUT/nq_$seed.h5"
  build/bin/dsrsq-eval --checkpoint "$OUT/seed_$seed/checkpoints/step-00000200" --methods random,bm25,oracle_evidence,question_only --budget 5% \
    --set eval.batch_size=8 --output-dir "$OUT/seed_$seed/eval"
done
.venv/bin/python scripts/reproduce/pool_recall.py "${SEEDS[@]/#/$OUT/seed_}"
