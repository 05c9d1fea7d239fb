#!/usr/bin/env bash
# From a fresh clone to a report: sets up, makes data, trains the full model and its ablations on two cores, evaluates.
#   scripts/quickstart.sh
# Everything lies in runs/quickstart/. Ctrl-C stops at a checkpoint; the same command continues, and does again only what is
# missing. A second run after the end shows the table.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  "") ;;
  -h | --help) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) echo "usage: scripts/quickstart.sh" >&2; exit 2 ;;
esac

RUNS=runs/quickstart
DATA=$RUNS/data
REPORT=$RUNS/report
ROWS=(no_dsr standard dsrsq no_sqa no_rckv)  # longest first; two at a time, one thread each
METHODS=random,question_only,oracle_evidence,bm25
PROBES=dense_read,random_routing,latents_masked

config_of() { [ "$1" = dsrsq ] && echo configs/quickstart.yaml || echo "configs/quickstart/$1.yaml"; }

# make_data NAME --set ...: unless the data set there was made by this very command, with the tokenizer beside it.
make_data() {
  local name="$1"
  shift
  local arguments=(synth --output $DATA --name "$name" "$@")
  if [ -f "$DATA/$name.h5" ] && [ -f $DATA/tokenizer.json ] &&
    build/bin/dsrsq-data inspect "$DATA/$name.h5" | grep -qxE "command +dsrsq-data ${arguments[*]}" &&
    build/bin/dsrsq-data validate "$DATA/$name.h5" --tokenizer $DATA/tokenizer.json >/dev/null; then
    echo "$DATA/$name.h5 is there"
  else
    build/bin/dsrsq-data "${arguments[@]}"
  fi
}

all_data() {
  make_data facts_512 --set train_documents=11200 --set validation_documents=256
  make_data facts_64 --set context_tokens=64 --set facts=4 --set train_documents=3200 --set validation_documents=8 --set test_documents=8
  make_data facts_128 --set context_tokens=128 --set facts=6 --set train_documents=2400 --set validation_documents=8 --set test_documents=8
  make_data facts_256 --set context_tokens=256 --set facts=12 --set train_documents=3200 --set validation_documents=8 --set test_documents=8
}

declare -A TRAINING=()  # process -> row

stop_training() {
  trap '' INT TERM
  echo "stopping at the next step; run scripts/quickstart.sh again to continue" >&2
  kill -TERM "${!TRAINING[@]}" 2>/dev/null || true
  wait
  exit 75
}

# Waits for one of the trainings; the others are stopped, resumable, where it failed.
finish_one() {
  local process status=0
  wait -n -p process "${!TRAINING[@]}" || status=$?
  local row="${TRAINING[$process]}"
  unset "TRAINING[$process]"
  [ $status = 0 ] && return
  kill -TERM "${!TRAINING[@]}" 2>/dev/null || true
  wait
  echo "FAILED: training of $row ($status); its messages are above and in $RUNS/$row/log.txt" >&2
  exit $status
}

# In this shell, not by `stage`: signals are to reach the trap at once. Each training is in a session of its own, so that Ctrl-C
# reaches it once, from the trap (a second signal would end it without a checkpoint).
train_all() {
  local row begin=$SECONDS
  echo "==> training of ${#ROWS[@]} rows, two at a time"
  trap stop_training INT TERM
  for row in "${ROWS[@]}"; do
    [ ${#TRAINING[@]} -lt 2 ] || finish_one
    setsid build/bin/dsrsq-train --config "$(config_of "$row")" --output-dir "$RUNS/$row" \
      > >(trap '' INT TERM && exec sed -u "s/^/[$row] /") 2>&1 &  # outlives Ctrl-C, to show the last lines
    TRAINING[$!]=$row
  done
  while [ ${#TRAINING[@]} -gt 0 ]; do finish_one; done
  trap - INT TERM
  STAGES+=("$(printf '%6ds  %s' $((SECONDS - begin)) "training")")
}

# Is there a checkpoint that is newer than the table, or none at all?
table_is_old() {
  [ -f $REPORT/table.md ] || return 0
  local row
  for row in "${ROWS[@]}"; do
    [ -z "$(find "$RUNS/$row/checkpoints" -name manifest.json -newer $REPORT/table.md)" ] || return 0
  done
  return 1
}

evaluate() {
  if ! table_is_old; then
    echo "$REPORT/table.md is newer than every checkpoint"
    return
  fi
  local row checkpoints=(--checkpoint "dsrsq=$RUNS/dsrsq")
  for row in no_dsr no_sqa no_rckv standard; do checkpoints+=(--checkpoint "$row=$RUNS/$row"); done
  build/bin/dsrsq-eval "${checkpoints[@]}" --methods $METHODS --probes $PROBES --output-dir $REPORT >/dev/null
}

report() {
  if [ -f $REPORT/index.html ] && [ ! $REPORT/table.md -nt $REPORT/index.html ]; then
    echo "$REPORT/index.html is newer than the table"
    return
  fi
  local row runs=()
  for row in dsrsq no_dsr no_sqa no_rckv standard; do runs+=("$row=$RUNS/$row"); done
  .venv/bin/python scripts/plot.py --results $REPORT/results.json --runs "${runs[@]}" --output $REPORT
}

stage "set-up and programs" scripts/setup.sh --programs-only
mkdir -p $RUNS
exec 9> $RUNS/.lock
flock -n 9 || { echo "another quickstart is running here (it holds $RUNS/.lock)" >&2; exit 2; }
stage "data" all_data
train_all
stage "evaluation" evaluate
stage "figures and report" report
echo
cat $REPORT/table.md
echo
print_stages
echo "Report: $REPORT/index.html"
