#!/usr/bin/env bash
# Sets up, builds everything and runs all tests. Exit code 0 only if all pass.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Several at a time, one thread each: small tensors gain nothing from a second thread, and two that wait for one core lose much.
run_tests() {
  OMP_NUM_THREADS=1 ctest --test-dir build --output-on-failure --no-tests=error -j "$(job_count)"
}

stage "set-up and build" scripts/setup.sh
stage "structure" python3 scripts/check_structure.py
stage "tests" run_tests
print_stages
echo "All tests passed."
