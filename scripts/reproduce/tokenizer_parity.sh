#!/usr/bin/env bash
# Ids and decoded text of the tokenizers of GPT-2, SmolLM2 and MiniLM beside Python's `tokenizers`, on 5 MB of mixed text.
#   scripts/reproduce/tokenizer_parity.sh DATA_FOLDER [BIN_FOLDER]      default: build/bin
# DATA_FOLDER holds gpt2_bpe and the texts that tokenizer_parity.py names. SmolLM2 and MiniLM are read from runs/smollm2 and runs/minilm
# (scripts/import_smollm2.py, scripts/import_minilm.py). A minute of one core. Prints the table, leaves it in
# runs/tokenizer_parity/table.md; exit code 1 where something differs.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
[ $# -ge 1 ] || { echo "usage: scripts/reproduce/tokenizer_parity.sh DATA_FOLDER [BIN_FOLDER]" >&2; exit 2; }
DATA="$1"
DATASET="${2:-build/bin}/dsrsq-data"
OUT=runs/tokenizer_parity
rm -rf $OUT
mkdir -p $OUT/text
.venv/bin/python scripts/reproduce/tokenizer_parity.py --make "$DATA" $OUT/text

for pair in gpt2="$DATA/gpt2_bpe" smollm2=runs/smollm2 minilm=runs/minilm minilm_vocab=runs/minilm/vocab.txt; do
  name="${pair%%=*}" path="${pair#*=}"
  "$DATASET" tokenize $OUT/text/* --tokenizer "$path" > $OUT/"$name".jsonl
done
.venv/bin/python scripts/reproduce/tokenizer_parity.py --compare "$DATA" $OUT | tee $OUT/table.md
exit "${PIPESTATUS[0]}"
