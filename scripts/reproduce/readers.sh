#!/usr/bin/env bash
# Prepares and validates every real file that the readers take, and compares with an independent reading in Python.
#   scripts/reproduce/readers.sh DATA_FOLDER [BIN_FOLDER]      default: build/bin
# DATA_FOLDER holds nq_simplified_derived, lost_in_the_middle, qed_nq_dev, natural_questions, timeqa, covid_qa, squad_format, hotpotqa_sample, github_code,
# debian_changelogs, longbench_ruler, quality_sample, tydiqa_tiny, cnn_dailymail,
# pubmedqa, scitldr_a, s2orc_samples, wikitext2, tinyshakespeare.
# About three minutes of one core. Prints the table, leaves it in runs/readers/table.md; exit code 1 where a row does not agree.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
[ $# -ge 1 ] || { echo "usage: scripts/reproduce/readers.sh DATA_FOLDER [BIN_FOLDER]" >&2; exit 2; }
DATA="$1"
DATASET="${2:-build/bin}/dsrsq-data"
OUT=runs/readers
SPLIT=train=0.8,validation=0.1,test=0.1
NQ="$DATA/nq_simplified_derived/simplified-nq-from-qed-40p.jsonl.gz"
LITM="$DATA/lost_in_the_middle/nq-open-oracle.jsonl.gz"
QED="$DATA/qed_nq_dev/qed-dev.jsonlines"
mkdir -p $OUT
rm -f $OUT/*.txt $OUT/*.h5

[ -f $OUT/tokenizer.json ] ||
  .venv/bin/python scripts/train_tokenizer.py --input "$NQ" --format nq_simplified --vocab-size 8192 --output $OUT/tokenizer.json

# row NAME FORMAT[,FORMAT] [OPTION...] -- FILE...: NAME.h5, what prepare and validate print, and the command for readers.py.
row() {
  local name="$1" format="$2" options=()
  shift 2
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  printf '%s\n' "$format" "${options[*]}" "$@" > $OUT/"$name".command.txt
  "$DATASET" prepare "$@" --format "$format" --tokenizer $OUT/tokenizer.json --output $OUT/"$name".h5 "${options[@]}" \
    > $OUT/"$name".prepare.txt 2> $OUT/"$name".log.txt || { cat $OUT/"$name".log.txt >&2; return 1; }
  "$DATASET" validate $OUT/"$name".h5 --tokenizer $OUT/tokenizer.json > $OUT/"$name".validate.txt
  echo "$name"
}

prepare_rows() {
  row nq_simplified nq_simplified -- "$NQ"
  # Files of the original schema and of N documents are too large to be had: made of the same real text, in the documented form.
  .venv/bin/python scripts/reproduce/readers.py --make "$DATA" $OUT
  row natural_questions natural_questions -- $OUT/natural_questions.jsonl
  row nq_toy natural_questions -- $OUT/nq_toy.jsonl
  row nq_open nq_open -- "$DATA/natural_questions/NQ-open.dev.jsonl"
  row efficientqa nq_open -- "$DATA/natural_questions/NQ-open.efficientqa.dev.1.1.jsonl"
  row lost_in_the_middle lost_in_the_middle --split $SPLIT -- "$LITM"
  row lost_in_the_middle_20_file lost_in_the_middle -- $OUT/lost_in_the_middle_20.jsonl
  for documents in 1 10 20 30; do
    for gold in first middle last; do
      row lost_in_the_middle_${documents}_$gold lost_in_the_middle --split $SPLIT --documents $documents --gold $gold -- "$LITM"
    done
  done
  row qed qed --split $SPLIT -- "$QED"
  row litm_and_qed_10_middle lost_in_the_middle,qed --split $SPLIT --documents 10 --gold middle -- "$LITM" "$QED"
  row timeqa_easy timeqa --split $SPLIT -- "$DATA/timeqa/human_train.easy.json.gzip"
  row timeqa_hard timeqa --split $SPLIT -- "$DATA/timeqa/human_train.hard.json.gzip"
  row timeqa_annotated timeqa --split $SPLIT -- "$DATA/timeqa/human_annotated_train.json"
  row covid_qa squad --split $SPLIT -- "$DATA/covid_qa/covid_qa.json"
  row xquad_en squad --split $SPLIT -- "$DATA/squad_format/xquad.en.json"
  for fixture in squad squad2 quac_sample; do
    row ${fixture}_fixture squad -- "$DATA/squad_format/allennlp_fixtures/$fixture.json"
  done
  row hotpotqa hotpotqa -- "$DATA/hotpotqa_sample/dev_sample.json"
  local news="$DATA/cnn_dailymail"
  row cnn_csv cnn_dailymail -- "$news/cnn_dailymail_validation_subset.csv"
  row cnn_csv_dated cnn_dailymail --companion "$news/dates.tsv" -- "$news/cnn_dailymail_validation_subset.csv"
  row cnn_stories cnn_dailymail -- "$news/cnn/stories"
  row cnn_stories_dated cnn_dailymail --companion "$news/dates.tsv" --maximum-bad 10 -- "$news/cnn/stories"
  row pubmedqa pubmedqa --split $SPLIT -- "$DATA/pubmedqa/ori_pqal.json"
  row scitldr_train scitldr -- "$DATA/scitldr_a/train.jsonl"
  row scitldr_dev scitldr -- "$DATA/scitldr_a/dev.jsonl"
  row s2orc_papers s2orc --maximum-bad 1 -- "$DATA"/s2orc_samples/*/*/*.json "$DATA"/s2orc_samples/doc2json/*.json
  row s2orc_metadata s2orc --maximum-bad 512 -- "$DATA/s2orc_samples/metadata/sample.jsonl"
  for repository in google__leveldb pallets__flask fmtlib__fmt BurntSushi__ripgrep; do
    row code_$repository github_code -- "$DATA/github_code/$repository.jsonl.gz"
    row commits_$repository dated_entries -- "$DATA/github_code/$repository.commits.jsonl.gz"
  done
  row wikitext2 text -- "$DATA/wikitext2/valid.txt"
  row tinyshakespeare text -- "$DATA/tinyshakespeare/input.txt"
  row changelogs dated_entries -- "$DATA/debian_changelogs/entries.jsonl.gz"
  row ruler_niah_multikey_3 ruler -- "$DATA/longbench_ruler/RULER/4096/niah_multikey_3.jsonl.gz"
  row quality_flat quality -- "$DATA/quality_sample/quality_example.jsonl"
  row kv_retrieval kv_retrieval -- "$DATA/lost_in_the_middle/kv-retrieval-75_keys.jsonl.gz"
  row tydiqa_tiny_dev tydiqa -- "$DATA/tydiqa_tiny/tiny_dev.jsonl.gz"
  row tydiqa_gold_annotation tydiqa -- "$DATA/tydiqa_tiny/small_gold_annotation.jsonl.gz"
}

stage "prepare and validate" prepare_rows
stage "compare with Python" .venv/bin/python scripts/reproduce/readers.py --check $OUT
