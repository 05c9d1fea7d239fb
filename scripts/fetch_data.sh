#!/usr/bin/env bash
# Fetches the public data sets of data/sources.tsv: file by file, resumed where an earlier try stopped, compared with its SHA-256 where one is known.
#   scripts/fetch_data.sh --list [SET...]                      the table of sources, sizes, licences and check sums, without network
#   scripts/fetch_data.sh [--output-dir DIR] [SET|SET/FILE...] SET: nq, news, code, science, text, ...; default: all (tens of gigabytes)
#   --table FILE   another table in the same form          --output-dir DIR   default: data/raw, which git ignores
# One line a file: kept (it was there), fetched, skipped (a key, an account or a hand is needed: the line says which) or FAILED.
# Exit code: 0 all there, 1 no network or a failed transfer, 2 usage, 3 a file differs from its check sum.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TABLE=data/sources.tsv
OUT=data/raw
LIST=false
WANTED=()

usage() { sed -n '3,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case "$1" in
    --list) LIST=true ;;
    --output-dir | --table)
      [ $# -ge 2 ] || usage
      [ "$1" = --table ] && TABLE="$2" || OUT="$2"
      shift ;;
    -*) usage ;;
    *) WANTED+=("$1") ;;
  esac
  shift
done
[ -r "$TABLE" ] || { echo "fetch_data.sh: --table $TABLE: cannot be read" >&2; exit 2; }

wanted() {
  local one
  [ ${#WANTED[@]} -gt 0 ] || return 0
  for one in "${WANTED[@]}"; do
    case "$one" in "$1" | "$1/$2") return 0 ;; esac
  done
  return 1
}

# A name that is in no line is an error before anything is fetched.
for one in ${WANTED[@]+"${WANTED[@]}"}; do
  awk -F'\t' -v one="$one" 'NR > 1 && (one == $1 || one == $1 "/" $2) { found = 1 } END { exit !found }' "$TABLE" && continue
  echo "fetch_data.sh: expected a set of $TABLE ($(awk -F'\t' 'NR > 1 && !seen[$1]++ { printf "%s%s", n++ ? ", " : "", $1 }' "$TABLE")), got $one" >&2
  exit 2
done

if $LIST; then
  ROW='%-19s %-44s %9s  %-12.12s %-44s %s\n'
  # shellcheck disable=SC2059
  printf "$ROW" set file bytes sha256 licence source
  while IFS=$'\t' read -r set file bytes sum licence source; do
    # shellcheck disable=SC2059
    if wanted "$set" "$file"; then printf "$ROW" "$set" "$file" "$bytes" "$sum" "$licence" "$source"; fi
  done < <(tail -n +2 "$TABLE")
  exit 0
fi

download() { # URL FILE: goes on where FILE ends
  if command -v curl >/dev/null; then
    curl --fail --location --silent --show-error --retry 2 --connect-timeout 20 --continue-at - --output "$2" "$1"
  elif command -v wget >/dev/null; then
    wget --quiet --continue --tries 3 --connect-timeout 20 --output-document "$2" "$1"
  else
    echo "fetch_data.sh: expected curl or wget, found neither; install one" >&2
    exit 2
  fi
}

sum_of() { sha256sum "$1" | cut -d' ' -f1; }

WORST=0
fail() { # CODE MESSAGE
  echo "FAILED   $2" >&2
  [ "$WORST" = 3 ] || WORST=$1
}

fetch() { # SET FILE SUM SOURCE
  local target="$OUT/$1/$2" sum status=0
  case "$3" in
    key) echo "skipped  $1/$2: needs a key: $4"; return ;;
    account) echo "skipped  $1/$2: needs an account: $4"; return ;;
    "by hand") echo "skipped  $1/$2: to be fetched by hand: $4"; return ;;
  esac
  if [ -f "$target" ]; then
    sum=$(sum_of "$target")
    if [ "$3" = - ] || [ "$sum" = "$3" ]; then echo "kept     $1/$2"; return; fi
    fail 3 "$1/$2: $target: expected sha256 $3, got $sum; remove the file and fetch it again"
    return
  fi
  mkdir -p "$OUT/$1"
  # An earlier try may have ended between the last byte and the check.
  if [ ! -f "$target.part" ] || [ "$3" = - ] || [ "$(sum_of "$target.part")" != "$3" ]; then
    download "$4" "$target.part" || status=$?
  fi
  if [ $status != 0 ]; then
    case $status in # curl's: no host, no connection, time over; wget's: network
      5 | 6 | 7 | 28 | 4) fail 1 "$1/$2: no network to $(sed -E 's#^[a-z]+://([^/]*).*#\1#' <<<"$4"); what was fetched stays, run this again" ;;
      *) fail 1 "$1/$2: $4: the transfer ended with code $status; what was fetched stays, run this again" ;;
    esac
    return
  fi
  sum=$(sum_of "$target.part")
  if [ "$3" != - ] && [ "$sum" != "$3" ]; then
    rm -f "$target.part"
    fail 3 "$1/$2: $4: expected sha256 $3, got $sum; the file was removed"
    return
  fi
  mv "$target.part" "$target"
  echo "fetched  $1/$2 ($(stat -c %s "$target") bytes, sha256 $([ "$3" = - ] && echo "$sum, none known" || echo "as expected"))"
}

while IFS=$'\t' read -r set file _ sum _ source; do
  wanted "$set" "$file" || continue
  fetch "$set" "$file" "$sum" "$source"
done < <(tail -n +2 "$TABLE")
exit $WORST
