#!/usr/bin/env bash
# Two million tokens of real dated text (changelogs and commits) through a small model at constant memory: with the buffer alone, with all
# history on disk, and once more killed in the middle (SIGKILL) and resumed from its snapshot.
#   scripts/reproduce/stream.sh DATA [FOLDER]      FOLDER: default runs/stream
# DATA: a folder with debian_changelogs/entries.jsonl.gz and github_code/*.commits.jsonl.gz (data/README.md, `dated_entries`).
# About half an hour on two cores. Leaves FOLDER/{results.json,stream.png}; fails where memory or the time of a token grows, a number
# is not finite, or an answer after the kill is another. A second call does only what is missing.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
case "${1:--h}" in -h | --help) sed -n '2,8s/^# //p' "${BASH_SOURCE[0]}"; exit 2 ;; esac
DATA="$1"
OUT="${2:-runs/stream}"
ENTRIES=("$DATA/debian_changelogs/entries.jsonl.gz" "$DATA"/github_code/*.commits.jsonl.gz)
TOKENIZER=$OUT/tokenizer.json
mkdir -p "$OUT"

make_data() {
  [ -f "$OUT/text.txt" ] || .venv/bin/python scripts/reproduce/stream.py text "${ENTRIES[@]}" --output "$OUT/text.txt"
  # What is followed: about 2,100,000 tokens of it, the oldest.
  [ -f "$OUT/stream.txt" ] || head -c 6000000 "$OUT/text.txt" >"$OUT/stream.txt"
  [ -f $TOKENIZER ] ||
    .venv/bin/python scripts/train_tokenizer.py --input "$OUT/text.txt" --format text --vocab-size 4096 --output $TOKENIZER
  [ -f "$OUT/entries.h5" ] || build/bin/dsrsq-data prepare "${ENTRIES[0]}" --format dated_entries --tokenizer $TOKENIZER \
    --output "$OUT/entries.h5" --split train=0.9,validation=0.1 --split-by time
}

train() {
  [ -f "$OUT/run/done" ] && return
  build/bin/dsrsq-train --config stream.yaml --set data.tokenizer=$TOKENIZER --set "data.train=$OUT/entries.h5" --output-dir "$OUT/run"
  touch "$OUT/run/done"
}

# follow NAME ARGUMENTS...: the whole text through the model, one thread. Becomes the program: to be called in a shell of its own.
follow() {
  local name="$1"
  shift
  exec build/bin/dsrsq-generate --stream --model "$OUT/run" --marker "??? " --max-tokens 12 --stop $'\n' --threads 1 --log-level info \
    --status-every 50000 --metrics "$OUT/$name.jsonl" "$@"
}

follow_once() {
  local name="$1"
  [ -f "$OUT/$name.txt" ] && return
  rm -rf "$OUT/$name".{jsonl,store,snapshot,part}
  (follow "$@" <"$OUT/stream.txt" >"$OUT/$name.part" 2>"$OUT/$name.log")
  mv "$OUT/$name.part" "$OUT/$name.txt"
}

# The first 550,000 tokens, killed behind the third snapshot; goes on from it, over the same text.
kill_and_resume() {
  [ -f "$OUT/killed.txt" ] && return
  rm -rf "$OUT"/killed.{jsonl,store,snapshot,part,input}
  head -c 1500000 "$OUT/stream.txt" >"$OUT/killed.input"
  local arguments=(killed --store "$OUT/killed.store" --snapshot "$OUT/killed.snapshot" --snapshot-every 100000 --replay)
  follow "${arguments[@]}" <"$OUT/killed.input" >"$OUT/killed.part" 2>"$OUT/killed.log" &
  local process=$!
  until [ "$(grep -c '"event":"snapshot"' "$OUT/killed.jsonl" 2>/dev/null)" -ge 3 ] 2>/dev/null; do
    kill -0 $process || { echo "stream.sh: ended before it was killed" >&2; return 1; }
    sleep 0.2
  done
  sleep 1
  kill -KILL $process
  wait $process || true
  (follow "${arguments[@]}" <"$OUT/killed.input" >>"$OUT/killed.part" 2>>"$OUT/killed.log")
  mv "$OUT/killed.part" "$OUT/killed.txt"
}

results() {
  .venv/bin/python scripts/reproduce/stream.py results --runs none disk --metrics "$OUT"/{none,disk}.jsonl --killed "$OUT/killed.jsonl" \
    --output "$OUT/results.json"
}

stage "set-up and programs" scripts/setup.sh --programs-only
stage "data" make_data
stage "training" train
stage "buffer alone" follow_once none
stage "with all history on disk" follow_once disk --store "$OUT/disk.store"
stage "killed and resumed" kill_and_resume
stage "results" results
stage "figure" .venv/bin/python scripts/plot_stream.py --results "$OUT/results.json" --output "$OUT/stream.png"
print_stages
