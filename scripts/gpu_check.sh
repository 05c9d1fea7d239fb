#!/usr/bin/env bash
# On a machine with a GPU: builds, runs all tests there, and the operators' tests under compute-sanitizer.
#   scripts/gpu_check.sh RESULTS.json
# Installs nothing. LibTorch comes from .venv, else from python3's torch; libraries that the machine lacks may lie in
# .deps/usr (unpacked Debian packages). Exit code 0 only if everything passed; the JSON is written either way.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ $# = 1 ] || { echo "usage: scripts/gpu_check.sh RESULTS.json" >&2; exit 2; }
RESULTS="$1"
BUILD=build-gpu
JOBS="${DSRSQ_JOBS:-$(nproc)}"
RECORDS=()
FAILED=0

# step NAME COMMAND...: records seconds and exit code, and goes on.
step() {
  local name="$1" begin=$SECONDS status=0
  shift
  echo "==> $name"
  "$@" || status=$?
  [ $status = 0 ] || FAILED=1
  RECORDS+=("{\"case\": \"$name\", \"method\": \"gpu_check\", \"shape\": {}, \"metric\": \"exit_code\", \"value\": $status, \"unit\": \"\"}")
  RECORDS+=("{\"case\": \"$name\", \"method\": \"gpu_check\", \"shape\": {}, \"metric\": \"wall_time\", \"value\": $((SECONDS - begin)), \"unit\": \"s\"}")
  return $status
}

configure() {
  local options=(-DCMAKE_BUILD_TYPE=Release -DDSRSQ_CUDA=ON)
  [ -d .venv ] || options+=("-DDSRSQ_TORCH_DIR=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')")
  [ ! -d .deps/usr ] || options+=("-DCMAKE_PREFIX_PATH=$ROOT/.deps/usr")
  command -v nvcc >/dev/null || export CUDACXX=/usr/local/cuda/bin/nvcc
  cmake -S . -B $BUILD -G Ninja "${options[@]}"
}

memcheck() {
  compute-sanitizer --tool memcheck --error-exitcode 1 $BUILD/bin/test_ops
}

if step configure configure && step build cmake --build $BUILD -j "$JOBS"; then
  step tests ctest --test-dir $BUILD --output-on-failure --no-tests=error -j 4 || true
  step memcheck memcheck || true
fi

DEVICE="$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -1 || echo none)"
{
  echo "{\"provenance\": {\"commit\": \"$(git rev-parse HEAD 2>/dev/null || echo unknown)\","
  echo "  \"command\": \"scripts/gpu_check.sh\", \"date\": \"$(date -u +%FT%TZ)\", \"device\": \"$DEVICE\","
  echo "  \"versions\": {\"nvcc\": \"$( (nvcc --version || /usr/local/cuda/bin/nvcc --version) 2>/dev/null | sed -n 's/.*release \([0-9.]*\),.*/\1/p')\"}, \"seeds\": []},"
  echo " \"records\": ["
  for i in "${!RECORDS[@]}"; do
    echo "  ${RECORDS[$i]}$([ "$i" = $((${#RECORDS[@]} - 1)) ] || echo ,)"
  done
  echo " ]}"
} > "$RESULTS"
echo "wrote $RESULTS"
exit $FAILED
