#!/usr/bin/env bash
# On a machine with a GPU: builds, runs all tests there, trains and evaluates briefly on the device in fp32 and
# bf16, runs the operators' tests under compute-sanitizer, and times attention over clusters against dense attention, and
# retrieval against torch's product and topk.
#   scripts/gpu_check.sh RESULTS.json
# Installs nothing. LibTorch comes from .venv, else from python3's torch; libraries that the machine lacks may lie in
# .deps/usr (unpacked Debian packages). Exit code 0 only if everything passed; the JSON is written either way.
# Where the tree is a copy without .git, DSRSQ_COMMIT says what it was made from.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ $# = 1 ] || { echo "usage: scripts/gpu_check.sh RESULTS.json" >&2; exit 2; }
RESULTS="$1"
BUILD=build-gpu
JOBS="${DSRSQ_JOBS:-$(nproc)}"
RECORDS=$BUILD/records.jsonl   # a record a line, also of steps that run beside others
FAILURES=$BUILD/failures.txt   # a failed step a line
export PATH="$PATH:/usr/local/cuda/bin"

# record CASE METRIC VALUE UNIT
record() {
  echo "{\"case\": \"$1\", \"method\": \"gpu_check\", \"shape\": {}, \"metric\": \"$2\", \"value\": $3, \"unit\": \"$4\"}" >> $RECORDS
}

# step NAME COMMAND...: records seconds and exit code, and goes on.
step() {
  local name="$1" begin=$SECONDS status=0
  shift
  echo "==> $name"
  "$@" || status=$?
  [ $status = 0 ] || echo "$name" >> $FAILURES
  record "$name" exit_code $status ""
  record "$name" wall_time $((SECONDS - begin)) s
  return $status
}

configure() {
  local options=(-DCMAKE_BUILD_TYPE=Release -DDSRSQ_CUDA=ON)
  [ -d .venv ] || options+=("-DDSRSQ_TORCH_DIR=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')")
  [ ! -d .deps/usr ] || options+=("-DCMAKE_PREFIX_PATH=$ROOT/.deps/usr")
  cmake -S . -B $BUILD -G Ninja "${options[@]}"
}

memcheck() {
  compute-sanitizer --tool memcheck --error-exitcode 1 $BUILD/bin/test_ops
}

# Small cases: both tools see every access. racecheck: our kernels alone. initcheck: without torch's reductions, which read
# what a product before them wrote through the copy engine, unseen by the tool; so no case with a product on the device.
SMALL_CASES="ClusterAttention.QueryThatSees*:ClusterAttention.Autocast*"
SMALL_CASES+=":ClusterAssign.WorkedExample:ClusterAssign.Ties*:AttentionMass.WorkedExample:AttentionMass.Routed*"
SMALL_CASES+=":RetrievalTopk.WorkedExample:RetrievalTopk.MorePlaces*:GatherTokens.WorkedExample:GatherTokens.TakesRows*"
SMALL_CASES+=":GatherTokens.Gradients*:SubsetLogProbOperator.WorkedExample:SubsetLogProbOperator.ARow*"
SMALL_CASES+=":ReservoirUpdate.WorkedExample:ReservoirUpdate.RingAnd*:ReservoirUpdate.WhatIs*"
SMALL_CASES+=":LatentAttention.WorkedExample:LatentAttention.AgesFall*:LatentProject.WritesItsSlots*"
racecheck() {
  compute-sanitizer --tool racecheck --error-exitcode 1 --kernel-name kns=5dsrsq7kernels \
    $BUILD/bin/test_ops --gtest_filter="$SMALL_CASES"
}
initcheck() {
  compute-sanitizer --tool initcheck --error-exitcode 1 --kernel-name-exclude kns=reduce_kernel \
    $BUILD/bin/test_ops --gtest_filter="$SMALL_CASES"
}

# Its records join those of this script.
bench() {
  local suite
  for suite in attention retrieval latent; do
    $BUILD/bin/dsrsq-bench --suite $suite --cases 16384:128,65536:256 --seconds 0.3 --output $BUILD/bench.json || return
    python3 -c 'import json; [print(json.dumps(r)) for r in json.load(open("'$BUILD'/bench.json"))["records"]]' >> $RECORDS
  done
}

# train_on_gpu NAME SETTING...: the whole path on the device, all stages and parts, with a tiny number of steps; then the evaluation
# of what it made.
train_on_gpu() {
  local name="$1" work="$BUILD/run" setting
  shift
  [ -f "$work/data/facts_512.h5" ] ||
    $BUILD/bin/dsrsq-data synth --output "$work/data" --name facts_512 --set train_documents=400 --set validation_documents=16 --set test_documents=64
  local options=(--set "data.tokenizer=$work/data/tokenizer.json" --set "data.train=$work/data/facts_512.h5")
  for setting in stages.0.steps=60 stages.1.steps=20 stages.2.steps=20 stages.3.steps=60 train.evaluate_every=40 \
    train.checkpoint_every=80 "$@"; do
    options+=(--set "$setting")
  done
  $BUILD/bin/dsrsq-train --config configs/quickstart.yaml --device cuda --output-dir "$work/$name" "${options[@]}" &&
    $BUILD/bin/dsrsq-eval --checkpoint "$work/$name" --device cuda --methods all --budget 12% \
      --probes dense_read,random_routing,latents_masked --set eval.latency_questions=10 &&
    $BUILD/bin/dsrsq-eval --checkpoint "$work/$name" --device cuda --audit all
}

# A last stage of reward, with the switches that the other two leave off.
REWARD=(stages.3.steps=20 stages.3.ppo=true ppo.lm_steps=1 dsr.complexity=learned dsr.budget_minimum=16 ppo.reward.target_share=0.08)

# Single cases are small: two threads each, many at a time.
run_tests() {
  local status=0 count
  OMP_NUM_THREADS=2 ctest --test-dir $BUILD --output-on-failure --no-tests=error -j "$(((JOBS + 1) / 2))" \
    --output-junit tests.xml || status=$?
  [ -f $BUILD/tests.xml ] || return $status
  for count in tests failures skipped; do
    record tests "$count" "$(sed -n "s/.*[[:space:]]$count=\"\([0-9]*\)\".*/\1/p" $BUILD/tests.xml | head -1)" ""
  done
  return $status
}

torch_version() {
  local python=python3
  [ ! -x .venv/bin/python ] || python=.venv/bin/python
  $python -c 'import torch; print(torch.__version__)'
}

mkdir -p $BUILD
: > $RECORDS
: > $FAILURES
if step configure configure && step build cmake --build $BUILD -j "$JOBS"; then
  # The tests are many small programs and leave the device to others most of the time.
  step tests run_tests > $BUILD/tests.log 2>&1 &
  step train_fp32 train_on_gpu fp32 train.precision=fp32 || true
  step train_bf16 train_on_gpu bf16 train.precision=bf16 || true
  step train_reward train_on_gpu reward train.precision=bf16 "${REWARD[@]}" ppo.credit=span_loo ppo.credit_group=8 \
    sqa.centroids=segment rckv.position=age_bias rckv.weight=gate || true
  step train_reward_value train_on_gpu reward_value train.precision=fp32 "${REWARD[@]}" ppo.baseline=value sqa.centroids=kmeans \
    sqa.route=group rckv.weight=recency loss.retrieval_target=attention loss.retrieval_form=inclusion || true
  step train_bias train_on_gpu bias train.precision=fp32 dsr.reader_gradient=bias stages.3.sample=true || true
  step memcheck memcheck || true
  step racecheck racecheck || true
  step initcheck initcheck || true
  echo "==> waiting for the tests"
  wait
  tail -n 40 $BUILD/tests.log
  step bench bench || true   # alone
fi

COMMIT="${DSRSQ_COMMIT:-$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown)}"
DEVICE="$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1 || echo none)"
NVCC="$(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p' || echo none)"
{
  echo "{\"provenance\": {\"commit\": \"$COMMIT\", \"command\": \"scripts/gpu_check.sh\","
  echo "  \"date\": \"$(date -u +%FT%TZ)\", \"device\": \"${DEVICE%,*}\","
  echo "  \"versions\": {\"driver\": \"${DEVICE##*, }\", \"nvcc\": \"$NVCC\", \"torch\": \"$(torch_version)\"}, \"seeds\": []},"
  echo " \"records\": ["
  sed '$!s/$/,/; s/^/  /' $RECORDS
  echo " ]}"
} > "$RESULTS"
echo "wrote $RESULTS"
[ ! -s $FAILURES ] || { echo "failed: $(paste -sd ' ' $FAILURES)" >&2; exit 1; }
