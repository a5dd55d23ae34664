#!/usr/bin/env bash
# Makes .venv beside this folder, installs the locked dependencies and builds the extension. Quick when nothing changed.
# Environment: PYTHON (python3), CXX (c++), RSNA_WITH_CUDA and RSNA_WITH_DALI (auto|0|1), CUDA_HOME.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lock=requirements/cu13.txt
needed_gb=12 # 7.7 GB installed, and what pip unpacks on the way
python=${PYTHON:-python3}
log=.venv/setup.log

fail() { # fail CODE MESSAGE
  echo "setup: $2" >&2
  exit "$1"
}

fingerprint() {
  { cat "$lock" setup.py pyproject.toml; find csrc -type f | LC_ALL=C sort | xargs cat; "$python" --version; \
    echo "${RSNA_WITH_CUDA:-auto} ${RSNA_WITH_DALI:-auto} ${CUDA_HOME:-}"; } | sha256sum | cut -d' ' -f1
}

pip_install() { # pip_install WHAT ARGUMENTS...
  local what=$1
  shift
  echo "setup: $what" >&2
  if .venv/bin/python -m pip install --disable-pip-version-check "$@" >>"$log" 2>&1; then return; fi
  tail -n 15 "$log" >&2
  if grep -q "No space left on device" "$log"; then
    fail 5 "the disk is full. Free ${needed_gb} GB here (or point TMPDIR at a larger disk) and run again."
  elif grep -q "CERTIFICATE_VERIFY_FAILED" "$log"; then
    fail 4 "the package index's certificate is not trusted here. Set PIP_CERT to your CA bundle and run again."
  elif grep -qE "NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Network is unreachable" "$log"; then
    fail 4 "the package index cannot be reached. Connect to the network (or set PIP_INDEX_URL to a mirror) and run again."
  fi
  fail 4 "could not finish: $what. The lines above are the end of $log."
}

[[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] || fail 4 "needs Linux on x86-64; this is $(uname -s) on $(uname -m)."
command -v "$python" >/dev/null || fail 4 "no $python. Install Python 3.11 or newer, or name it: PYTHON=python3.12 $0"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail 4 "$("$python" --version) is too old. Install Python 3.11 or newer, or name it: PYTHON=python3.12 $0"

if [[ -f .venv/fingerprint && $(<.venv/fingerprint) == "$(fingerprint)" ]]; then exit 0; fi

"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail 4 "$python has no venv module. On Debian and Ubuntu: apt-get install python3-venv"
command -v "${CXX:-g++}" >/dev/null || command -v c++ >/dev/null || command -v clang++ >/dev/null ||
  fail 4 "no C++ compiler. On Debian and Ubuntu: apt-get install g++"
if [[ ! -f .venv/fingerprint ]]; then
  free_gb=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1024 / 1024))
  ((free_gb >= needed_gb)) || fail 5 "needs ${needed_gb} GB of disk, $PWD has ${free_gb} GB free."
fi

[[ -x .venv/bin/python ]] || "$python" -m venv .venv
rm -f .venv/fingerprint "$log"
pip_install "installing the locked dependencies (7.7 GB, one to three minutes)" -r "$lock"
pip_install "building the extension" --verbose --no-build-isolation --no-deps --editable .
grep -oE "rsna_e2e: (C\+\+|CUDA|DALI) .*" "$log" >&2
fingerprint >.venv/fingerprint
echo "setup: done; commands: .venv/bin/rsna-e2e --help" >&2
