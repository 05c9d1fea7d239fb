#!/usr/bin/env bash
# What a change must pass besides scripts/test.sh: format, structure, sanitizers, fuzzing.
#   scripts/check.sh [--fix] [--tidy] [--no-fuzz]
# --fix: format in place     --tidy: clang-tidy as well (slow; needs build/)     --no-fuzz: where clang is missing
# Environment: DSRSQ_FUZZ_SECONDS (30) for each target; DSRSQ_FUZZ_TARGETS (all), e.g. "config tokenizer".
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

FIX=no
TIDY=no
FUZZ=yes
for argument in "$@"; do
  case "$argument" in
    --fix) FIX=yes ;;
    --tidy) TIDY=yes ;;
    --no-fuzz) FUZZ=no ;;
    *) echo "usage: scripts/check.sh [--fix] [--tidy] [--no-fuzz]" >&2; exit 2 ;;
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

# Says what is missing rather than letting the linker say it.
fuzz_build() {
  if ! command -v clang++ >/dev/null; then
    echo "clang++ is missing (Debian: clang and libclang-rt-14-dev); install it, or give --no-fuzz" >&2
    return 1
  fi
  mkdir -p build-fuzz
  printf 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n' > build-fuzz/probe.cpp
  if ! clang++ -fsanitize=fuzzer,address,undefined build-fuzz/probe.cpp -o build-fuzz/probe 2>build-fuzz/probe.log; then
    echo "$(clang++ --version | head -n 1) cannot link libFuzzer (Debian: libclang-rt-14-dev); install it, or give --no-fuzz:" >&2
    tail -n 3 build-fuzz/probe.log >&2
    return 1
  fi
  cmake --preset fuzz
  cmake --build --preset fuzz -j "$(job_count)"
}

# One target at a time. What it finds out stays in build-fuzz/corpus, so that the next run begins there.
fuzz() {
  local name="$1" seconds="${DSRSQ_FUZZ_SECONDS:-30}"
  local log="build-fuzz/$name.log" kept="build-fuzz/corpus/$name"
  mkdir -p "$kept" build-fuzz/findings
  if ! build-fuzz/bin/"${name}_fuzz" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 \
      -print_final_stats=1 -artifact_prefix="build-fuzz/findings/$name-" "$kept" "tests/fuzz/corpus/$name" >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    echo "The input that did it is in build-fuzz/findings; once fixed, it belongs in tests/fuzz/corpus/$name" >&2
    return 1
  fi
  grep -E 'DONE|number_of_executed_units|peak_rss_mb' "$log"
}

fuzz_targets() {
  local source
  for source in tests/fuzz/*_fuzz.cpp; do basename "$source" _fuzz.cpp; done
}

stage "format" format
stage "structure" python3 scripts/check_structure.py
if [ $TIDY = yes ]; then stage "clang-tidy" tidy; fi
stage "address and undefined-behaviour sanitizers (dsrsq_base)" sanitizers
if [ $FUZZ = yes ]; then
  stage "fuzz targets (clang)" fuzz_build
  for target in ${DSRSQ_FUZZ_TARGETS:-$(fuzz_targets)}; do stage "fuzz $target" fuzz "$target"; done
fi
print_stages
