#!/usr/bin/env bash
# Every suite of configs/suites that DATA holds files of, answered by one checkpoint and scored by the suite's own rules.
#   scripts/reproduce/suites.sh DATA CHECKPOINT CONFIG [ARGUMENT...]     e.g. DATA runs/smollm2 smollm2_suites.yaml --set eval.questions=2
# DATA: a folder with, as far as they are there, longbench/*.jsonl*, longbench_v2/data.json*, longbench_ruler/RULER/4096/*.jsonl* (files of
# RULER's generator), babilong/qa*.jsonl*, lost_in_the_middle/{nq-open,kv-retrieval}-*.jsonl.gz, timeqa/human_*.json*, hotpotqa*/*.json,
# quality*/*.jsonl and narrativeqa/qaps.csv; data/README.md says where they come from. ARGUMENTs go to dsrsq-eval.
# The tokenizer is the checkpoint's (DSRSQ_TOKENIZER: another). Leaves $DSRSQ_OUT (runs/suites)/<suite>/ and report/.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
[ $# -ge 3 ] || { sed -n '2,8s/^# //p' "${BASH_SOURCE[0]}"; exit 2; }
DATA="$1" CHECKPOINT="$2" CONFIG="$3"
shift 3
OUT="${DSRSQ_OUT:-runs/suites}"
TOKENIZER="${DSRSQ_TOKENIZER:-$CHECKPOINT/tokenizer.json}"
mkdir -p "$OUT"
shopt -s nullglob
DONE=()

# run_suite SUITE FORMAT PREPARE_ARGUMENT... -- INPUT...: nothing where there is no input.
run_suite() {
  local suite="$1" format="$2" more=() inputs=()
  shift 2
  while [ "$1" != -- ]; do more+=("$1"); shift; done
  shift
  inputs=("$@")
  [ ${#inputs[@]} -gt 0 ] || { echo "$suite: no files in $DATA, left out"; return 0; }
  build/bin/dsrsq-data prepare "${inputs[@]}" --format "$format" --split-by input "${more[@]}" --tokenizer "$TOKENIZER" --output "$OUT/$suite.h5"
  build/bin/dsrsq-eval --checkpoint "$CHECKPOINT" --config "$CONFIG" --suite "$suite" --set "data.train=$OUT/$suite.h5" \
    --output-dir "$OUT/$suite" "${ARGUMENTS[@]}"
  touch "$OUT/$suite/done"
}
ARGUMENTS=("$@")

LITM=() HOTPOT=() QUALITY=() TIMEQA=()
# The oracle file has the right passage alone: ten are assembled, the right one in the middle.
ASSEMBLE=()
for file in "$DATA"/lost_in_the_middle/nq-open-[0-9]*.jsonl.gz; do LITM+=("$file"); done
if [ ${#LITM[@]} = 0 ] && [ -f "$DATA/lost_in_the_middle/nq-open-oracle.jsonl.gz" ]; then
  LITM=("nq-open-10_assembled_gold_at_4=$DATA/lost_in_the_middle/nq-open-oracle.jsonl.gz")
  ASSEMBLE=(--documents 10 --gold 4)
fi
for file in "$DATA"/hotpotqa*/*.json; do HOTPOT+=("hotpotqa=$file"); done
for file in "$DATA"/quality*/*.jsonl; do QUALITY+=("quality=$file"); done
for file in "$DATA"/timeqa/human_*.json*; do name="${file##*/}"; TIMEQA+=("timeqa_${name%.json*}=$file"); done
V2=("$DATA"/longbench_v2/data.json*)

stage "LongBench" run_suite longbench longbench -- "$DATA"/longbench/*.jsonl*
stage "LongBench v2" run_suite longbench_v2 longbench -- "${V2[@]/#/longbench_v2=}"
stage "RULER" run_suite ruler ruler -- "$DATA"/longbench_ruler/RULER/4096/*.jsonl*
stage "BABILong" run_suite babilong babilong -- "$DATA"/babilong/qa*.jsonl*
stage "lost in the middle" run_suite lost_in_the_middle lost_in_the_middle --passages numbered "${ASSEMBLE[@]}" -- "${LITM[@]}"
stage "key-value retrieval" run_suite kv_retrieval kv_retrieval -- "$DATA"/lost_in_the_middle/kv-retrieval-*.jsonl.gz
stage "TimeQA" run_suite timeqa timeqa -- "${TIMEQA[@]}"
stage "HotpotQA" run_suite hotpotqa hotpotqa -- "${HOTPOT[@]}"
stage "QuALITY" run_suite quality quality -- "${QUALITY[@]}"
stage "NarrativeQA" run_suite narrativeqa narrativeqa -- "$DATA"/narrativeqa/qaps.csv*
for suite in longbench longbench_v2 ruler babilong lost_in_the_middle kv_retrieval timeqa hotpotqa quality narrativeqa; do
  [ ! -f "$OUT/$suite/done" ] || DONE+=("$suite=$OUT/$suite/results.json")
done
[ ${#DONE[@]} = 0 ] || stage "report" .venv/bin/python scripts/plot.py --results "${DONE[@]}" --title "Suites" --output "$OUT/report"
print_stages
