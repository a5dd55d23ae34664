#!/usr/bin/env bash
# Makes .venv beside this folder, installs the locked dependencies and builds the extension. Quick when nothing changed.
# Usage: bin/setup.sh [--system-torch]
#   --system-torch   a .venv over the system's packages: its torch, torchvision, DALI and apex stay as they are, the
#                    rest is locked, and the extension is built against what is there. For images with their own torch
# Examples: bin/setup.sh     STACK=volta bin/setup.sh     PYTHON=python3.12 bin/setup.sh
# Environment: PYTHON (python3), STACK (cu13; volta for V100), CXX (c++), RSNA_WITH_CUDA and RSNA_WITH_DALI (auto|0|1),
#   CUDA_HOME. What a .venv was made with stays: later calls need neither the option nor STACK.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PIP_CONSTRAINT # an image's wishes; the locks are stricter

python=${PYTHON:-python3}
log=.venv/setup.log

made_with() { # what stack the .venv holds; nothing without one
  if [[ -f .venv/stack ]]; then cat .venv/stack; elif [[ -d .venv ]]; then echo cu13; fi
}

lock_fingerprint() { # of what is installed
  { cat "$lock" bin/system_torch.py; "$python" --version; echo "$stack"
    if [[ $stack == system ]]; then "$python" bin/system_torch.py kept "$lock"; fi; } | sha256sum | cut -d' ' -f1
}

build_fingerprint() { # of what the extension is built from
  { cat setup.py pyproject.toml; find csrc -type f | LC_ALL=C sort | xargs cat
    echo "${RSNA_WITH_CUDA:-auto} ${RSNA_WITH_DALI:-auto} ${CUDA_HOME:-}"; } | sha256sum | cut -d' ' -f1
}

is_in_venv() { [[ -f .venv/$1 && $(<".venv/$1") == "$2" ]]; } # is_in_venv NAME FINGERPRINT

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

install_beside_the_systems_torch() { # without dependencies: the lock is complete, and nothing of the system is replaced
  "$python" bin/system_torch.py rest "$lock" >.venv/wanted.txt 2>/dev/null # said before
  pip_install "installing the locked dependencies beside it" --no-deps -r .venv/wanted.txt
  .venv/bin/python bin/system_torch.py devices "$lock" >.venv/wanted.txt
  if [[ -s .venv/wanted.txt ]]; then # ignoring the system's: a compiler and its headers belong in one folder
    pip_install "installing these" --no-deps --ignore-installed -r .venv/wanted.txt
  fi
}

have=$(made_with)
case ${1:-} in
  "") stack=${STACK:-${have:-cu13}} ;;
  --system-torch) stack=system ;;
  *) fail 2 "unknown option $1. Usage: bin/setup.sh [--system-torch]" ;;
esac
[[ $have == system && -z ${1:-} ]] && stack=system # with it, STACK has no say
case $stack in
  cu13 | volta) lock=requirements/$stack.txt needed_gb=12 ;; # 7.7 GB installed, and what pip unpacks on the way
  system) lock=requirements/cu13.txt needed_gb=4 ;;
  *) fail 2 "STACK is '$stack'; it must be cu13 or volta" ;;
esac
[[ ${have:-$stack} == "$stack" ]] ||
  fail 2 "this .venv was made with the stack $have. To make one with $stack: rm -r .venv"

[[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] || fail 4 "needs Linux on x86-64; this is $(uname -s) on $(uname -m)."
command -v "$python" >/dev/null || fail 4 "no $python. Install Python 3.11 or newer, or name it: PYTHON=python3.12 $0"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail 4 "$("$python" --version) is too old. Install Python 3.11 or newer, or name it: PYTHON=python3.12 $0"
# The system is that of the interpreter itself, if PYTHON lies in a venv too
if [[ $stack == system ]]; then python=$("$python" -c 'import sys; print(sys._base_executable)'); fi

locked=$(lock_fingerprint) built=$(build_fingerprint)
if is_in_venv locked "$locked" && is_in_venv built "$built"; then exit 0; fi

"$python" -c 'import ensurepip, venv' 2>/dev/null ||
  fail 4 "$python has no venv module. On Debian and Ubuntu: apt-get install python3-venv"
command -v "${CXX:-g++}" >/dev/null || command -v c++ >/dev/null || command -v clang++ >/dev/null ||
  fail 4 "no C++ compiler. On Debian and Ubuntu: apt-get install g++"
if [[ $stack == system ]]; then "$python" bin/system_torch.py rest "$lock" >/dev/null; fi # stops without a torch
if [[ ! -f .venv/locked ]]; then
  free_gb=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1024 / 1024))
  ((free_gb >= needed_gb)) || fail 5 "needs ${needed_gb} GB of disk, $PWD has ${free_gb} GB free."
fi

if [[ ! -x .venv/bin/python ]]; then
  "$python" -m venv $([[ $stack != system ]] || echo --system-site-packages) .venv
fi
echo "$stack" >.venv/stack
rm -f "$log"
if ! is_in_venv locked "$locked"; then
  if [[ -f .venv/locked ]]; then echo "setup: the locked dependencies, Python or the system's packages changed" >&2; fi
  rm -f .venv/locked .venv/built
  if [[ $stack == system ]]; then
    install_beside_the_systems_torch
  else
    pip_install "installing the locked dependencies of $stack (7.7 GB, one to three minutes)" -r "$lock"
  fi
  echo "$locked" >.venv/locked
fi
what="building the extension"
if [[ -f .venv/built ]]; then what="the sources or options of the build changed: building the extension again"; fi
rm -f .venv/built
pip_install "$what" --verbose --no-build-isolation --no-deps --editable .
grep -oE "rsna_e2e: (C\+\+|CUDA|DALI) .*" "$log" >&2
echo "$built" >.venv/built
echo "setup: done; commands: .venv/bin/rsna-e2e --help" >&2
