#!/usr/bin/env bash
# Do the tests notice? Each patch of tests/mutations breaks one property on purpose and names the test that must fail then:
# applies them one by one to a copy of the tree, builds, runs that test, prints survivors. Exit code 0 only if there are none.
#   scripts/mutate.sh [NAME...]      NAME: part of a patch's file name; default: all
# The copy and its build lie in build-mutate/ (the first call builds the tests there); nothing else is touched.
# Environment: DSRSQ_JOBS (2); DSRSQ_MUTATE_OPTIONS: more options for cmake, e.g. -DDSRSQ_TORCH_DIR=...
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
WORK=build-mutate
COPY=$WORK/tree
BUILD=$WORK/build

# A patch begins with "Breaks: one line" and "Test: TARGET FILTER", then the diff.
field() { sed -n "s/^$1: //p" "$2" | head -1; }
patched_files() { sed -n 's|^+++ b/||p' "$1"; }

copy_tree() {
  mkdir -p $COPY
  git ls-files -co --exclude-standard > $WORK/files 2>/dev/null ||
    find . \( -name 'build*' -o -name '.venv' -o -name '.deps' -o -name runs \) -prune -o -type f -printf '%P\n' > $WORK/files
  local file
  while read -r file; do
    [ -f "$file" ] || continue
    # Unchanged files keep their time, so that they are not built again.
    cmp -s "$file" "$COPY/$file" || install -D -m "$(stat -c %a "$file")" "$file" "$COPY/$file"
  done < $WORK/files
  for file in .venv .deps; do [ ! -d $file ] || ln -sfn "$ROOT/$file" $COPY/$file; done
}

configure() {
  # shellcheck disable=SC2086
  cmake -S $COPY -B $BUILD -G Ninja -DCMAKE_BUILD_TYPE=Release -DDSRSQ_CUDA=OFF -DDSRSQ_TESTS=ON ${DSRSQ_MUTATE_OPTIONS:-}
}

build() { cmake --build $BUILD --target "$@" -- -j "$(job_count)"; }
run_test() { OMP_NUM_THREADS=2 timeout 600 "$BUILD/bin/test_$1" --gtest_filter="$2" > $WORK/test.log 2>&1; }

# The named tests exist and pass before anything is broken.
check_unchanged() {
  local patch target filter
  for patch in "${PATCHES[@]}"; do
    read -r target filter <<< "$(field Test "$patch")"
    run_test "$target" "$filter" && grep -q '^\[  PASSED  \] [1-9]' $WORK/test.log && continue
    echo "$patch: test_$target --gtest_filter=$filter fails, or runs nothing, in the unchanged tree" >&2
    return 1
  done
}

# Prints what became of one patch; the tree is as before afterwards.
mutate() {
  local patch="$1" target filter file
  read -r target filter <<< "$(field Test "$patch")"
  if ! patch -s -p1 -d $COPY < "$patch" > $WORK/apply.log 2>&1; then
    echo "BROKEN: does not apply: $(head -1 $WORK/apply.log)"
  elif ! build "test_$target" > $WORK/build.log 2>&1; then
    echo "BROKEN: does not compile: $(grep -m1 'error:' $WORK/build.log || tail -1 $WORK/build.log)"
  elif run_test "$target" "$filter"; then
    echo "SURVIVED: $(field Breaks "$patch")"
  else
    echo "killed by $(sed -n 's/^\[  FAILED  \] \([A-Z][^ ,]*\).*/\1/p' $WORK/test.log | sort -u | head -2 | paste -sd ' ')"
  fi
  patched_files "$patch" | while read -r file; do cp "$file" "$COPY/$file"; rm -f "$COPY/$file".{orig,rej}; done
}

run_all() {
  local begin=$SECONDS done=0 failed=0 patch result left
  for patch in "${PATCHES[@]}"; do
    result="$(mutate "$patch")"
    done=$((done + 1))
    [[ $result == killed* ]] || failed=$((failed + 1))
    left=$(((SECONDS - begin) * (${#PATCHES[@]} - done) / done))
    printf '[%2d/%d, %2d:%02d left] %-36s %s\n' $done ${#PATCHES[@]} $((left / 60)) $((left % 60)) "$(basename "$patch" .patch)" "$result"
  done
  echo "${#PATCHES[@]} mutations, $((${#PATCHES[@]} - failed)) killed, $failed not"
  [ $failed = 0 ]
}

case "${1:-}" in -h | --help) sed -n '2,6s/^# //p' "${BASH_SOURCE[0]}"; exit 0 ;; esac
PATCHES=()
for patch in tests/mutations/*.patch; do
  [ $# != 0 ] || PATCHES+=("$patch")
  for name in "$@"; do if [[ "$(basename "$patch")" == *"$name"* ]]; then PATCHES+=("$patch"); fi; done
done
[ ${#PATCHES[@]} -gt 0 ] || { echo "no patch of tests/mutations matches: $*" >&2; exit 2; }
mapfile -t TARGETS < <(for patch in "${PATCHES[@]}"; do field Test "$patch" | sed 's/^\([^ ]*\).*/test_\1/'; done | sort -u)

stage "copy of the tree" copy_tree
stage "configure" configure
stage "build of the unchanged tree" build "${TARGETS[@]}"
stage "tests of the unchanged tree" check_unchanged
stage "mutations" run_all
print_stages
