#!/usr/bin/env bash
# Prefill and decode of dsrsq-generate beside transformers on SmolLM2, in turns: fp32, two threads, prompts of 128 and 1,024 tokens,
# 64 tokens an answer, batches of 1 and 8.
#   scripts/reproduce/generation_speed.sh [OPTION of generation_speed.py...]      --rounds 5, --threads 2, --lengths 128 1024, --batches 1 8
# Needs runs/smollm2 (scripts/import_smollm2.py) and an otherwise idle machine; a quarter of an hour of two cores. Prints the table, leaves
# runs/generation_speed/{table.md,results.json}; exit code 1 where a ratio is below 0.8 (--least). DSRSQ_PYTHON: a Python with
# transformers (.venv/bin/python).
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:-}" in -h | --help) sed -n '2,7s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
exec "${DSRSQ_PYTHON:-.venv/bin/python}" scripts/reproduce/generation_speed.py "$@"
