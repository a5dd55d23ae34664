#!/usr/bin/env bash
# Builds the image with buildah, without docker or podman and without a GPU, on a Debian from debootstrap: as it is (plain)
# and with a torch of its own (system). Runs the version, tests and the fast mode inside; prints what ran and how long.
# Usage: docker/check.sh [plain] [system]      (default: both). As root, with Debian's packages buildah and debootstrap.
# Example: TESTS="tests/store -x" docker/check.sh plain
# Environment: WORK (a folder to make, for all images; removed at the end; default under /tmp), TESTS (arguments of
#   bin/test.sh; default none: all tests), PIP_CERT and PIP_INDEX_URL (as pip takes them), MIRROR (of Debian).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/engine.sh"
help_if_asked "$@"
no_options "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

needed_gb=30 # vfs keeps images and containers whole, and a commit writes everything once more: 9 GB each at most
name=rsna-check
system_packages=(torch==2.12.0 torchvision==0.27.0 nvidia-dali-cuda130==2.1.0) # older than the lock: a change would show
summary=()

for program in buildah debootstrap; do
  command -v $program >/dev/null || fail 4 "no $program. On Debian and Ubuntu: apt-get install buildah debootstrap"
done
work=${WORK:-/tmp/rsna-docker-check-$$}
mkdir "$work" "$work/tmp"
trap 'rm -rf "$work"' EXIT
free_gb=$(($(df -Pk "$work" | awk 'NR == 2 {print $4}') / 1024 / 1024))
((free_gb >= needed_gb)) || fail 5 "needs ${needed_gb} GB of disk, $work has ${free_gb} GB free."
export TMPDIR=$work/tmp BUILDAH_ISOLATION=chroot # commits write there; no privileges but root's
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }

# How the package index is reached from inside. The CA bundle is mounted, so that no image holds it.
volume=() variables=()
if [[ -n ${PIP_CERT:-} ]]; then
  volume=(--volume "$(realpath "$PIP_CERT"):/run/ca.crt:ro")
  variables+=(PIP_CERT=/run/ca.crt)
fi
if [[ -n ${PIP_INDEX_URL:-} ]]; then variables+=("PIP_INDEX_URL=$PIP_INDEX_URL"); fi

inside() { buildah run "${volume[@]}" "${variables[@]/#/--env=}" "$name" -- "$@"; }
inside_as_user() { buildah run --user 1234:1234 --env HOME=/tmp/out --env USER=user "$name" -- "$@"; }

timed() { # timed WHAT COMMAND...: run it, and note how it went
  local what=$1 started=$SECONDS result=ok
  shift
  echo "== $what" >&2
  "$@" || result="FAILED ($?)"
  summary+=("$(printf '%-58s %5d s  %s' "$what" $((SECONDS - started)) "$result")")
  [[ $result == ok ]]
}

make_base() { # make_base plain|system
  if [[ ! -f $work/root.tar ]]; then
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip bookworm "$work/root" \
      "${MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log" || return
    tar -C "$work/root" --exclude='./dev/*' -cf "$work/root.tar" . && rm -rf "$work/root" || return
  fi
  buildah from --name $name scratch && buildah add --quiet $name "$work/root.tar" / || return
  if [[ $1 == system ]]; then
    inside python3 -m pip install --quiet --break-system-packages --no-cache-dir --root-user-action=ignore \
      "${system_packages[@]}" || return
  fi
  buildah commit --quiet --rm $name base
}

build_image() {
  buildah build "${volume[@]}" "${variables[@]/#/--build-arg=}" --build-arg BASE=localhost/base \
    --file docker/Dockerfile --tag rsna_e2e . &&
    buildah from --name $name rsna_e2e
}

is_the_systems() { # is_the_systems PACKAGE==VERSION: is that what the .venv sees, from outside itself?
  inside .venv/bin/python -c "
import importlib.metadata, sys
found = importlib.metadata.distribution('${1%%==*}')
print(found.name, found.version, found.locate_file(''))
sys.exit(found.version != '${1##*==}' or str(found.locate_file('')).startswith(sys.prefix))"
}

are_built() { # the CUDA half too: its compiler came from PyPI
  inside .venv/bin/python -c "
import sys, torch, rsna_e2e.loader.kernels.torch_ops
from rsna_e2e.loader.kernels import dali_plugin
print(torch.ops.rsna_e2e.is_cuda_built(), dali_plugin.load())
sys.exit(not torch.ops.rsna_e2e.is_cuda_built())"
}

fast_mode() { # on embeddings that the single mode left
  inside_as_user bash -euc '
    export DATA=/tmp/out/raw OUT=/tmp/out/run RECIPE=demo
    rsna-e2e synth $DATA --studies 24 --seed 7 --prevalence demo
    bin/run_21_single.sh --part prepare --part images --part embeddings
    bin/run_31_fast.sh
    ls -l $OUT/fast/submission.csv*'
}

check() { # check plain|system
  timed "$1: base" make_base "$1" || return
  timed "$1: image" build_image || return
  df -h "$work" | tail -n 1
  timed "$1: rsna-e2e --version" inside rsna-e2e --version
  if [[ $1 == system ]]; then
    for package in "${system_packages[@]}"; do timed "$1: $package stayed" is_the_systems "$package"; done
  fi
  timed "$1: set-up has nothing to do" inside bin/setup.sh
  timed "$1: both halves are built, and DALI's plugin" are_built
  # Types are checked against the locked torch only
  if [[ $1 == plain ]]; then timed "$1: bin/test.sh" inside bin/test.sh ${TESTS:-}; fi
  if [[ $1 == system ]]; then timed "$1: tests" inside .venv/bin/python -m pytest ${TESTS:-}; fi
  timed "$1: fast mode, as another user" fast_mode
}

for way in ${*:-plain system}; do
  check "$way" || true # what failed is in the summary, and the rest is still worth knowing
  buildah rm --all >/dev/null
  buildah rmi --all --force >/dev/null
done
echo "== summary"
printf '%s\n' "${summary[@]}"
[[ ${summary[*]} != *FAILED* ]]
