#!/usr/bin/env bash
# Kills the run of seed 0 of nq_small.sh with SIGKILL at random moments, restarts it each time, and compares the final weights with
# those of the uninterrupted run, bit by bit. Run nq_small.sh first.
#   scripts/reproduce/kill_resume.sh [KILLS] [SECONDS between kills, at most]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
KILLS="${1:-5}"
LONGEST="${2:-30}"
OUT=runs/nq_small
source scripts/reproduce/nq_small_train.sh
LAST=checkpoints/step-00000200/model.safetensors
[ -f "$OUT/seed_0/$LAST" ] || { echo "run scripts/reproduce/nq_small.sh first: $OUT/seed_0/$LAST is missing" >&2; exit 2; }
rm -rf $OUT/killed

for ((kill = 1; kill <= KILLS; ++kill)); do
  (train_small $OUT 0 $OUT/killed) &
  process=$!
  wait_for=$((RANDOM % (LONGEST - 4) + 5))
  sleep "$wait_for"
  if kill -KILL "$process" 2>/dev/null; then
    echo "kill $kill after $wait_for s"
  else
    echo "the run ended before kill $kill" >&2
  fi
  wait "$process" 2>/dev/null || true
done
(train_small $OUT 0 $OUT/killed)
cmp "$OUT/seed_0/$LAST" "$OUT/killed/$LAST"
echo "final weights are bit-equal after $KILLS kills"
