#!/usr/bin/env bash
# Sets up, then serves the model of a demo: exports its run, starts the service on this machine alone, sends five simulated studies
# of the test split, waits for what is found, takes pictures of the pages, and stops it. For after bin/demo.sh. Research use only.
# Usage: bin/demo_serve.sh [OUT]     (the folder that bin/demo.sh made; default demo, or demo-N with STUDIES=N)
# Examples: STUDIES=16 bin/demo_serve.sh     one to two minutes on two CPU cores
#           bin/demo_serve.sh                the same with the model of 240 studies, whose answers say something
# Leaves OUT/model.rsna, OUT/service (the data of the service, made anew each time), and OUT/served: a report, the log, and pictures
# of the pages, 1440 and 390 px wide, where a chromium is installed.
# Environment: STUDIES, as for bin/demo.sh; PORT (default: one that is free).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
no_options "$@"
(($# <= 1)) || fail 2 "one folder at most, not $*. See $0 --help"
port=${PORT:-0} # the system chooses
[[ $port =~ ^[0-9]{1,5}$ ]] || fail 2 "PORT is '$port'; it must be a number, such as 8600"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
python=$root/.venv/bin/python
"$python" -c 'import fastapi, uvicorn, python_multipart, prometheus_client' 2>/dev/null ||
  "$python" -m pip install --disable-pip-version-check --quiet --no-deps -r "$root/requirements/serve.txt"
exec "$python" "$root/bin/demo_serve.py" "${1:-demo${STUDIES:+-$STUDIES}}" "$port"
