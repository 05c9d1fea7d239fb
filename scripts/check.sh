#!/usr/bin/env bash
# What a change must pass besides scripts/test.sh: format, structure, sanitizers.
#   scripts/check.sh [--fix] [--tidy]     --fix: format in place     --tidy: clang-tidy as well (slow; needs build/)
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

FIX=no
TIDY=no
for argument in "$@"; do
  case "$argument" in
    --fix) FIX=yes ;;
    --tidy) TIDY=yes ;;
    *) echo "usage: scripts/check.sh [--fix] [--tidy]" >&2; exit 2 ;;
  esac
done

our_files() { find include src tests kernels \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' \) -print0; }

format() {
  if [ $FIX = yes ]; then
    our_files | xargs -0 clang-format -i
  else
    our_files | xargs -0 clang-format --dry-run -Werror
  fi
}

tidy() {
  [ -f build/compile_commands.json ] || { echo "build/compile_commands.json is missing: run scripts/setup.sh" >&2; return 1; }
  # clang reads neither gcc's precompiled header nor its options; it parses torch instead, which takes a while.
  mkdir -p build/tidy
  sed -E 's/ -Winvalid-pch//g; s/ -include [^ ]*cmake_pch\.hxx//g; s/ -fpch-preprocess//g; s/ -Wno-restrict//g' \
    build/compile_commands.json > build/tidy/compile_commands.json
  find src -name '*.cpp' -print0 | xargs -0 -n 1 -P "$(job_count)" clang-tidy -p build/tidy --quiet
}

sanitizers() {
  cmake --preset asan
  cmake --build --preset asan -j "$(job_count)"
  ctest --preset asan --no-tests=error -j "$(job_count)"
}

stage "format" format
stage "structure" python3 scripts/check_structure.py
if [ $TIDY = yes ]; then stage "clang-tidy" tidy; fi
stage "address and undefined-behaviour sanitizers (dsrsq_base)" sanitizers
print_stages
