# Sourced by the scripts beside it: project root, stage times.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"
STAGES=()

# stage NAME COMMAND...: runs it, remembers how long it took, stops the script if it fails.
stage() {
  local name="$1" begin=$SECONDS status=0
  shift
  echo "==> $name"
  # In a subshell, so that `set -e` holds inside functions too.
  set +e
  (set -e; "$@")
  status=$?
  set -e
  STAGES+=("$(printf '%6ds  %s%s' $((SECONDS - begin)) "$name" "$([ $status = 0 ] || echo " FAILED ($status)")")")
  if [ $status != 0 ]; then
    print_stages
    echo "FAILED: $name" >&2
    exit $status
  fi
}

print_stages() {
  echo "Stage times:"
  printf '%s\n' "${STAGES[@]}"
}

job_count() { echo "${DSRSQ_JOBS:-2}"; }

# start_run COMMAND...: in the background, DSRSQ_JOBS (2) at a time; a run that fails stops the others and the script. finish_runs waits for all.
declare -A RUNNING=()
finish_run() {
  local process status=0
  wait -n -p process "${!RUNNING[@]}" || status=$?
  local command="${RUNNING[$process]}"
  unset "RUNNING[$process]"
  [ $status = 0 ] && return
  [ ${#RUNNING[@]} = 0 ] || kill -TERM "${!RUNNING[@]}" 2>/dev/null || true
  echo "FAILED ($status): $command" >&2
  exit $status
}
finish_runs() { while [ ${#RUNNING[@]} -gt 0 ]; do finish_run; done; }
start_run() {
  while [ ${#RUNNING[@]} -ge "$(job_count)" ]; do finish_run; done
  "$@" &
  RUNNING[$!]="$*"
}

# The checkpoint of a run's last step: not its best, where stages read different numbers of tokens.
last_checkpoint() { find "$1/checkpoints" -maxdepth 1 -name 'step-*' | sort | tail -n 1; }
