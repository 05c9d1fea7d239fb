#!/usr/bin/env bash
# Real questions answered by SmolLM2 through dsrsq-eval (row `standard`) and through transformers: EM, F1, subspan EM, and the answers
# that differ with their logits' distance. 200 questions with 1, 10 and 20 documents, the right one in the middle.
#   scripts/reproduce/transformers_parity.sh prepare --data nq-open-oracle.jsonl.gz    data sets, anywhere; a second call makes what is missing
#   scripts/reproduce/transformers_parity.sh compare [--device cuda]                   both systems and the table
# Options of both: --documents 1 10 20, --questions 200, --batch 8, --folder runs/transformers_parity, --model runs/smollm2, --bin build/bin.
# `compare` needs runs/smollm2 (scripts/import_smollm2.py), the folder that `prepare` left, and no network; minutes on a GPU, hours on two
# cores. Leaves table.md, results.json and answers_*.jsonl in the folder; exit code 1 where over 2 questions score otherwise (--most).
# DSRSQ_PYTHON: a Python with transformers and h5py (.venv/bin/python).
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:-}" in "" | -h | --help) sed -n '2,10s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
exec "${DSRSQ_PYTHON:-.venv/bin/python}" scripts/reproduce/transformers_parity.py "$@"
