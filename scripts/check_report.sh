#!/usr/bin/env bash
# Opens a report in headless Chromium, 1280 and 390 pixels wide and as it is printed, and checks it: console, figures, links, overflow.
#   scripts/check_report.sh FOLDER [SHOTS]     FOLDER holds index.html; SHOTS gets the screenshots (PNG, one after the other down the page)
# Exit code 1, and a line a fault, where something is wrong. Installs the Debian package chromium where it is missing (as root).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$OLDPWD"
case "${1:--h}" in -h | --help) sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 2 ;; esac
[ $# -le 2 ] || { echo "usage: scripts/check_report.sh FOLDER [SHOTS]" >&2; exit 2; }

if ! command -v chromium >/dev/null; then
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "Chromium is missing: on Debian, as root, run: apt-get install -y chromium; elsewhere install it so that 'chromium' is on PATH" >&2
    exit 2
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q >&2
  apt-get install -y -q --no-install-recommends chromium >&2
fi
exec python3 "$ROOT/scripts/check_report.py" "$@"
