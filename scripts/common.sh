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
