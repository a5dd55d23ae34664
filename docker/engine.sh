# What docker/build.sh and docker/run.sh share.

fail() { # fail CODE MESSAGE
  echo "${0##*/}: $2" >&2
  exit "$1"
}

help_of() { # print the comment at the top of a script
  awk 'NR > 1 && !/^#/ {exit} NR > 1 {print substr($0, 3)}' "$1"
  exit
}

engine() { # the program that builds and runs images
  if [[ -n ${ENGINE:-} ]]; then echo "$ENGINE" && return; fi
  for name in docker podman; do
    if command -v $name >/dev/null; then echo $name && return; fi
  done
  fail 4 "neither docker nor podman. Install one, or name it: ENGINE=..."
}

run_or_print() {
  if [[ ${DRY_RUN:-0} == 1 ]]; then printf '%q ' "$@" && echo && exit; fi
  exec "$@"
}
