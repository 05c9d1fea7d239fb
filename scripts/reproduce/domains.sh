#!/usr/bin/env bash
# The paper's four domains from real files, and what learning one is worth in the others: a small model is trained on each, and
# answers the test questions of all.
#   scripts/reproduce/domains.sh DATA [DOMAIN...]     DOMAIN: nq, news, code, science; default: all, which gives the transfer matrix too
# DATA: a folder with nq/*.jsonl.gz (Natural Questions, simplified), news/*.csv and news/dates.tsv (CNN/DailyMail), code/*.jsonl.gz
# (codeparrot columns), science/covid_qa.json, science/ori_pqal.json and science/scitldr.jsonl; data/README.md says where they come from.
# One model a core (DSRSQ_JOBS, 2); finished parts are kept.
# Leaves runs/domains/{<domain>,eval/<model>_on_<domain>,transfer.json,transfer.md}.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
source scripts/reproduce/small_model.sh
case "${1:--h}" in -h | --help) sed -n '2,9s/^# //p' "${BASH_SOURCE[0]}"; exit 2 ;; esac
INPUT="$1"
shift
ALL=(nq news code science)
DOMAINS=("$@")
[ ${#DOMAINS[@]} -gt 0 ] || DOMAINS=("${ALL[@]}")
OUT=runs/domains
TOKENIZER=$OUT/tokenizer.json
mkdir -p $OUT

# files_of DOMAIN: what dsrsq-data prepare reads of it.
files_of() {
  case "$1" in
    nq) FILES=("$INPUT"/nq/*.jsonl.gz --format nq_simplified) SPLIT_BY=() ;;
    news) FILES=("$INPUT"/news/*.csv --format cnn_dailymail --companion "$INPUT/news/dates.tsv") SPLIT_BY=(--split-by time) ;;
    code) FILES=("$INPUT"/code/*.jsonl.gz --format github_code) SPLIT_BY=() ;;
    science)
      FILES=("$INPUT"/science/{covid_qa.json,ori_pqal.json,scitldr.jsonl} --format squad,pubmedqa,scitldr) SPLIT_BY=() ;;
    *) echo "domains.sh: expected nq, news, code or science, got $1" >&2; exit 2 ;;
  esac
}
for one in "${DOMAINS[@]}"; do files_of "$one"; done

# One tokenizer for all, so that a model can read what another was trained on.
make_tokenizer() {
  [ ! -f $TOKENIZER ] || return 0
  local inputs=() one
  for one in "${ALL[@]}"; do
    files_of "$one"
    build/bin/dsrsq-data prepare "${FILES[@]}" --output "$OUT/$one.jsonl"
    inputs+=(--input "$OUT/$one.jsonl")
  done
  .venv/bin/python scripts/train_tokenizer.py "${inputs[@]}" --vocab-size 8192 --output $TOKENIZER
}

prepare_data() {
  local one
  for one in "${ALL[@]}"; do
    files_of "$one"
    [ -f "$OUT/$one.h5" ] || build/bin/dsrsq-data prepare "${FILES[@]}" --tokenizer $TOKENIZER --output "$OUT/$one.h5" \
      --split train=0.8,validation=0.05,test=0.15 "${SPLIT_BY[@]}"
    build/bin/dsrsq-data validate "$OUT/$one.h5" --tokenizer $TOKENIZER >/dev/null
  done
}

train() {
  local one
  for one in "${DOMAINS[@]}"; do
    start_run build/bin/dsrsq-train --config "configs/$one.yaml" --output-dir "$OUT/$one" "${SMALL[@]}" \
      --set data.tokenizer=$TOKENIZER --set "data.train=$OUT/$one.h5" --set data.maximum_context=3000
  done
  finish_runs
}

# evaluate MODEL DOMAIN: beside it, on its own domain, what the same reader does with other tokens and with none.
evaluate() {
  local methods=question_only
  [ "$1" != "$2" ] || methods=random,bm25,oracle_evidence,question_only
  build/bin/dsrsq-eval --checkpoint "$1=$(last_checkpoint "$OUT/$1")" --methods $methods --budget 256 --set "data.train=$OUT/$2.h5" \
    --set eval.questions=100 --set eval.batch_size=8 --set eval.latency_questions=3 --output-dir "$OUT/eval/$1_on_$2" >/dev/null
}

evaluate_all() {
  local model domain
  for model in "${DOMAINS[@]}"; do
    for domain in "${ALL[@]}"; do
      [ "$model" = "$domain" ] || [ ${#DOMAINS[@]} = ${#ALL[@]} ] || continue
      OMP_NUM_THREADS=1 start_run evaluate "$model" "$domain"
    done
  done
  finish_runs
}

show() {
  local one
  for one in "${DOMAINS[@]}"; do cat "$OUT/eval/${one}_on_$one/table.md"; done
  [ ${#DOMAINS[@]} -lt ${#ALL[@]} ] || .venv/bin/python scripts/reproduce/domains.py $OUT "${ALL[@]}"
}

stage "set-up and programs" scripts/setup.sh --programs-only
stage "tokenizer" make_tokenizer
stage "data" prepare_data
stage "training" train
stage "evaluation" evaluate_all
stage "tables" show
print_stages
