#!/usr/bin/env bash
# Trains and predicts from DICOM files to a submission. bin/run_*.sh call it, each for its part.
# Sets up first: after a change of the sources it builds the extension again (bin/setup.sh).
# Usage: bin/pipeline.sh full|single|joint|fast [OPTIONS of rsna-e2e pipeline; --dry-run shows the plan]
# Example: DATA=raw OUT=out RECIPE=demo bin/pipeline.sh single --set two_stage.clip=0.001
# Environment: DATA (DICOM files in a folder or zip, or a store), OUT (out), RECIPE (demo). Options win over these.
# Started again, it continues where it stopped. Exit code 75: stopped by a signal and saved; start it again.
# All options, once it is set up: .venv/bin/rsna-e2e pipeline --help
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "${@:---help}"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
mode=$1
shift
exec "$root/.venv/bin/rsna-e2e" pipeline "$mode" ${DATA:+--data "$DATA"} --out "${OUT:-out}" --recipe "${RECIPE:-demo}" "$@"
