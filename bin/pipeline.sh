#!/usr/bin/env bash
# Sets up, then trains and predicts from DICOM files to a submission. bin/run_*.sh call it, each for its part.
# Usage: bin/pipeline.sh full|single|joint|fast [OPTIONS of rsna-e2e pipeline; --dry-run shows the plan]
# Environment: DATA (DICOM files in a folder or zip, or a store), OUT (out), RECIPE (demo). Options win over these.
# Started again, it goes on where it stopped. Exit code 75: stopped by a signal and saved; start it again.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
case ${1:---help} in -h | --help) exec awk 'NR > 1 && !/^#/ {exit} NR > 1 {print substr($0, 3)}' "$0" ;; esac
"$root/bin/setup.sh"
mode=$1
shift
exec "$root/.venv/bin/rsna-e2e" pipeline "$mode" ${DATA:+--data "$DATA"} --out "${OUT:-out}" --recipe "${RECIPE:-demo}" "$@"
