# What the scripts in bin/ and docker/ share: help, errors that end them, and steps that are shown. Sourced before they set anything up.

fail() { # fail CODE MESSAGE
  local script=${0##*/}
  echo "${script%.sh}: $2" >&2
  exit "$1"
}

help_if_asked() { # help_if_asked ARGUMENTS...: if one of them is -h or --help, print the comment at the top of the
  # script, and of the script that it sources to do its work, and end
  local argument
  for argument in "$@"; do
    case $argument in
      -h | --help)
        print_top "$0"
        [[ $0 -ef ${BASH_SOURCE[1]} ]] || { echo && print_top "${BASH_SOURCE[1]}"; }
        exit ;;
    esac
  done
}

print_top() {
  awk 'NR > 1 && !/^#/ {exit} NR > 1 {print substr($0, 3)}' "$1"
}

no_options() { # no_options ARGUMENTS...: end if one of them is an option, for scripts that have none but --help
  local argument
  for argument in "$@"; do
    case $argument in -*) fail 2 "unknown option $argument. See $0 --help" ;; esac
  done
}

run_verb() { # run_verb ARGUMENTS...: show and run a verb of the program that is installed below $root
  echo "+ rsna-e2e $*" >&2 && "$root/.venv/bin/rsna-e2e" "$@"
}
