#!/usr/bin/env bash
# Sets up, then runs the whole way on simulated studies: DICOM files, store, data report, training, submission, report.
# Usage: bin/demo.sh [OUT]     (default: demo). Finished steps are kept; started again, it goes on where it stopped.
# Environment: STUDIES (default 240), SEED (default 7).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
out=${1:-demo}
run_verb() { echo "+ rsna-e2e $*" >&2 && "$root/.venv/bin/rsna-e2e" "$@"; }

mkdir -p "$out"
[[ -e $out/raw ]] || run_verb synth "$out/raw" --studies "${STUDIES:-240}" --seed "${SEED:-7}" --prevalence demo
[[ -e $out/sheet.png ]] || run_verb synth "$out/raw" --preview "$out/sheet.png"
[[ -e $out/store ]] || run_verb prepare "$out/raw" "$out/store"
[[ -e $out/inspection ]] || run_verb inspect "$out/store" --out "$out/inspection"
run_verb train "$out/store" "$out/run" --recipe demo --resume auto
run_verb predict "$out/run" "$out/store" --split test --out "$out/submission.csv"
run_verb evaluate "$out/submission.csv" "$out/raw/stage_2_test_truth.csv" --out "$out/report" --store "$out/store"
