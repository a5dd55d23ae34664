# What docker/build.sh, check.sh, run.sh and serve.sh share.
. "$(dirname "${BASH_SOURCE[0]}")/../bin/help.sh"

engine() { # the program that builds and runs images
  if [[ -n ${ENGINE:-} ]]; then echo "$ENGINE" && return; fi
  for name in docker podman; do
    if command -v $name >/dev/null; then echo $name && return; fi
  done
  fail 4 "neither docker nor podman. Install one, or name it: ENGINE=..."
}

image() { # the name of the image of STACK
  if [[ ${STACK:-cu13} == cu13 ]]; then echo "${TAG:-rsna_e2e}"; else echo "${TAG:-rsna_e2e:$STACK}"; fi
}

gpus() { # the GPUs that a container gets: GPUS, else all if there are any
  echo "${GPUS:-$(if nvidia-smi -L 2>/dev/null | grep -q ^GPU; then echo all; else echo none; fi)}"
}

run_or_print() {
  if [[ ${DRY_RUN:-0} == 1 ]]; then printf '%q ' "$@" && echo && exit; fi
  exec "$@"
}
