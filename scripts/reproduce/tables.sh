# Sourced by table_5_1.sh to table_5_4.sh: the runs and evaluations behind them, on SmolLM2 and real questions with ten passages. The paper's
# own numbers are of other data and models and are never printed.
#   table_5_N.sh FILE [cuda|cpu|smoke]     FILE: nq-open-oracle.jsonl.gz of lost-in-the-middle
# cuda: the training of smollm2_nq.sh and all test questions. cpu (the default): few steps and 40 questions, which shows that everything
# runs and says little about quality. smoke: one step, four questions of 300 tokens. What is finished is kept; the tables share it.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
usage() { sed -n '2,/^source/s/^# //p' "$0"; sed -n '3,6s/^# //p' "${BASH_SOURCE[0]}"; exit 2; }
case "${1:--h}" in -h | --help) usage ;; esac
INPUT="$1"
PRESET="${2:-cpu}"
source scripts/reproduce/smollm2_nq_data.sh
TABLES=runs/tables/$PRESET
BUDGET=25%   # dsr.budget of smollm2_nq.yaml is 256 of about 1,190 tokens
DEVICE=cpu STEPS=() DENSE_STEPS=() TWO_STAGES=()
case "$PRESET" in
  cuda) DEVICE=cuda EVALUATION=(--set eval.batch_size=128) ;;
  cpu | smoke)
    export DSRSQ_JOBS=1   # a run takes all cores
    few=(--set train.precision=fp32 --set train.batch_size=2 --set train.evaluate_every=0)
    STEPS=("${few[@]}" --set stages.0.steps=40 --set stages.1.steps=20 --set stages.2.steps=20 --set stages.3.steps=2)
    DENSE_STEPS=("${few[@]}" --set stages.0.steps=40)
    TWO_STAGES=("${few[@]}" --set stages.0.steps=40 --set stages.1.steps=40)
    EVALUATION=(--set eval.batch_size=4 --set eval.questions=40 --set eval.latency_questions=5 --set razor.search_tokens=500)
    ;;
  *) echo "$(basename "$0"): expected cuda, cpu or smoke, got $PRESET" >&2; exit 2 ;;
esac
if [ "$PRESET" = smoke ]; then
  few=(--set train.precision=fp32 --set train.batch_size=2 --set train.evaluate_every=0 --set data.maximum_context=300)
  STEPS=("${few[@]}" --set stages.0.steps=1 --set stages.1.steps=1 --set stages.2.steps=1 --set stages.3.steps=1)
  DENSE_STEPS=("${few[@]}" --set stages.0.steps=1)
  TWO_STAGES=("${few[@]}" --set stages.0.steps=1 --set stages.1.steps=1)
  EVALUATION=(--set eval.batch_size=2 --set eval.questions=4 --set eval.latency_questions=1 --set data.maximum_context=300
              --set razor.search_tokens=50)
fi

# train_row ROW CONFIG ARGUMENT...
train_row() {
  local row="$1" config="$2"
  shift 2
  start_run "$BIN/dsrsq-train" --config "$config" --device "$DEVICE" "$@" --output-dir "$TABLES/$row"
}

train_main() {
  train_row dsrsq configs/smollm2_nq.yaml "${STEPS[@]}"
  train_row standard configs/smollm2_nq/dense.yaml "${DENSE_STEPS[@]}"
  # Chunk retrieval has weights of its own, where the registry knows it.
  [ ! -f configs/smollm2_nq/gca.yaml ] || train_row gca configs/smollm2_nq/gca.yaml "${DENSE_STEPS[@]}"
  finish_runs
}

# The rows of tables 5.1 and 5.2: three trained models, and what reads with the weights of `standard`.
# evaluate_main FOLDER COLUMNS ARGUMENT...
evaluate_main() {
  local folder="$1" columns="$2" checkpoints=() row
  shift 2
  for row in standard dsrsq gca; do
    [ ! -d "$TABLES/$row" ] || checkpoints+=(--checkpoint "$row=$(last_checkpoint "$TABLES/$row")")
  done
  "$BIN/dsrsq-eval" "${checkpoints[@]}" --methods rag,attention_rag,razor,pyramid,question_only --budget $BUDGET --baseline standard \
    --device "$DEVICE" "${EVALUATION[@]}" "$@" --columns "$columns" --output-dir "$folder"
}

prepare() {
  stage "set-up and programs" set_up
  stage "SmolLM2 and MiniLM" import_models
  stage "data" prepare_data
}
