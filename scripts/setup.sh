#!/usr/bin/env bash
# Sets up everything and builds: Debian packages, .venv, build/. Reuses what is there; a second run does nothing.
#   scripts/setup.sh [--programs-only]     --programs-only: without the tests
# Environment: DSRSQ_JOBS (2), DSRSQ_TORCH_INDEX (a pip index for torch, e.g. one with CPU wheels).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

TESTS=ON
for argument in "$@"; do
  case "$argument" in
    --programs-only) TESTS=OFF ;;
    *) echo "usage: scripts/setup.sh [--programs-only]" >&2; exit 2 ;;
  esac
done

PACKAGES=(build-essential cmake ninja-build ccache git python3-venv pkg-config libspdlog-dev libcli11-dev
  nlohmann-json3-dev libhdf5-dev libyaml-cpp-dev libpcre2-dev libgtest-dev libgmock-dev zlib1g-dev libzstd-dev
  clang-format)

system_packages() {
  if ! command -v dpkg-query >/dev/null; then
    echo "Not a Debian system: install the equivalents of: ${PACKAGES[*]}"
    return
  fi
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && { echo "all ${#PACKAGES[@]} packages are installed"; return; }
  if [ "$(id -u)" != 0 ]; then
    echo "Missing packages; as root run: apt-get install -y ${missing[*]}" >&2
    return 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q
  apt-get install -y -q --no-install-recommends "${missing[@]}"
}

python_packages() {
  [ -x .venv/bin/python ] || python3 -m venv .venv
  if .venv/bin/python - <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version
for line in open("scripts/requirements.txt"):
    if line.startswith("#") or not line.strip():
        continue
    name, wanted = line.strip().split("==")
    try:
        found = version(name).split("+")[0]
    except PackageNotFoundError:
        found = None
    if found != wanted:
        sys.exit(f"{name}: {found} is installed, {wanted} is wanted")
PY
  then
    echo "all Python packages are installed"
    return
  fi
  if [ -n "${DSRSQ_TORCH_INDEX:-}" ]; then
    .venv/bin/python -m pip install -q --disable-pip-version-check --index-url "$DSRSQ_TORCH_INDEX" \
      "$(grep '^torch==' scripts/requirements.txt)"
  fi
  .venv/bin/python -m pip install -q --disable-pip-version-check -r scripts/requirements.txt
}

configure() {
  local cuda=OFF
  if command -v nvcc >/dev/null; then
    cuda=ON
  elif [ -x /usr/local/cuda/bin/nvcc ]; then
    cuda=ON
    export CUDACXX=/usr/local/cuda/bin/nvcc
  else
    echo "No CUDA toolkit (nvcc) on PATH or in /usr/local/cuda: building without the CUDA kernels"
  fi
  cmake --preset release -DDSRSQ_CUDA=$cuda -DDSRSQ_TESTS=$TESTS
}

build() { cmake --build --preset release -j "$(job_count)"; }

stage "system packages" system_packages
stage "Python packages (.venv)" python_packages
stage "configure" configure
stage "build" build
print_stages
