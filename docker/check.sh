#!/usr/bin/env bash
# Builds the image for real, without an engine and without a GPU: buildah on a Debian from debootstrap, once as it is and
# once with a torch of its own, and runs the version, tests and the fast mode inside. Prints what ran and for how long.
# Usage: docker/check.sh [plain] [system]      (default: both). As root, with the Debian packages buildah and debootstrap.
# Environment: WORK (a new folder under /tmp: images, removed at the end), TESTS (arguments of pytest; a short selection),
#   PIP_CERT and PIP_INDEX_URL (as pip takes them: a CA bundle is mounted, not copied), MIRROR (of Debian).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. docker/engine.sh
case ${1:-} in -h | --help) help_of "$0" ;; esac

needed_gb=24 # vfs keeps a whole copy of every image and container, and a commit writes another: 8 GB each at most
tests=${TESTS:-tests/test_cli.py tests/test_ops.py tests/test_model.py tests/test_dali_ops.py tests/test_store.py}
# Older than the lock, so that a replaced package would show
system_packages=(torch==2.12.0 torchvision==0.27.0 nvidia-dali-cuda130==2.1.0)
work=${WORK:-$(mktemp -d /tmp/rsna-docker-check.XXXXXX)}
name=rsna-check
summary=()

for program in buildah debootstrap; do
  command -v $program >/dev/null || fail 4 "no $program. On Debian and Ubuntu: apt-get install buildah debootstrap"
done
mkdir -p "$work/tmp"
free_gb=$(($(df -Pk "$work" | awk 'NR == 2 {print $4}') / 1024 / 1024))
((free_gb >= needed_gb)) || fail 5 "needs ${needed_gb} GB of disk, $work has ${free_gb} GB free."
export TMPDIR=$work/tmp BUILDAH_ISOLATION=chroot # where a commit writes its layer
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
clean_up() {
  buildah rm --all >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean_up EXIT

with_network=() # how the package index is reached from inside
if [[ -n ${PIP_CERT:-} ]]; then with_network+=(--volume "$(realpath "$PIP_CERT"):/run/ca.crt:ro"); fi
inside() { # inside COMMAND...: in the working container
  buildah run ${PIP_CERT:+--volume "$(realpath "$PIP_CERT"):/run/ca.crt:ro" --env PIP_CERT=/run/ca.crt} \
    ${PIP_INDEX_URL:+--env "PIP_INDEX_URL=$PIP_INDEX_URL"} "$name" -- "$@"
}
timed() { # timed WHAT COMMAND...: run it, and note how it went
  local what=$1 started=$SECONDS result=ok
  shift
  echo "== $what" >&2
  "$@" || result="FAILED ($?)"
  summary+=("$(printf '%-60s %5d s  %s' "$what" $((SECONDS - started)) "$result")")
  [[ $result == ok ]]
}

make_base() { # make_base plain|system: the image localhost/base
  [[ -d $work/root ]] || debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip bookworm \
    "$work/root" "${MIRROR:-http://deb.debian.org/debian}" >"$work/debootstrap.log"
  buildah from --name "$name" scratch >/dev/null
  buildah copy --quiet "$name" "$work/root" / >/dev/null
  if [[ $1 == system ]]; then
    inside python3 -m pip install --quiet --break-system-packages --no-cache-dir --root-user-action=ignore \
      "${system_packages[@]}"
  fi
  buildah commit --quiet --rm "$name" base >/dev/null
}

build_image() { # build_image: the image localhost/rsna_e2e by docker/Dockerfile
  buildah build "${with_network[@]}" ${PIP_CERT:+--build-arg PIP_CERT=/run/ca.crt} \
    ${PIP_INDEX_URL:+--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL"} \
    --build-arg BASE=localhost/base --file docker/Dockerfile --tag rsna_e2e .
}

check_system() { # that the system's packages are what the .venv sees
  local package
  for package in "${system_packages[@]}"; do
    inside .venv/bin/python -c "
import importlib.metadata as m, sys
name, version = '$package'.split('==')
found = m.distribution(name)
assert found.version == version and not str(found.locate_file('')).startswith(sys.prefix), (name, found.version)"
  done
}

check() { # check plain|system
  timed "$1: base" make_base "$1" || return
  timed "$1: image" build_image || return
  command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs rmi base >/dev/null 2>&1 || true
  buildah from --name "$name" rsna_e2e >/dev/null
  timed "$1: rsna-e2e --version" inside rsna-e2e --version || true
  if [[ $1 == system ]]; then timed "$1: nothing of the system's torch is replaced" check_system || true; fi
  timed "$1: set-up has nothing to do" inside bin/setup.sh || true
  # shellcheck disable=SC2086
  timed "$1: tests: $tests" inside .venv/bin/python -m pytest -q $tests || true
  if [[ -x bin/run_31_fast.sh ]]; then
    timed "$1: fast mode" inside env DATA=/tmp/data OUT=/tmp/out RECIPE=demo bin/run_31_fast.sh || true
  fi
  buildah rm --all >/dev/null
  buildah rmi --all --force >/dev/null
}

for way in "${@:-plain system}"; do
  for one in $way; do check "$one" || true; done
done
echo "== summary"
printf '%s\n' "${summary[@]}"
[[ ${summary[*]} != *FAILED* ]]
