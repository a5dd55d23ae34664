#!/usr/bin/env bash
# Sets up, then runs the whole way on simulated studies: DICOM files, store, data report, training, submission, report.
# Usage: bin/demo.sh [OUT]     (a folder; default demo, or demo-N with STUDIES=N)
# Examples: STUDIES=16 bin/demo.sh     two minutes on two CPU cores; shows every step, but three test studies say nothing of scores
#           bin/demo.sh                240 studies, a quarter of an hour
# The first run installs the dependencies (7.7 GB, some minutes). Finished steps are kept; started again, it continues where it
# stopped. Environment: STUDIES (default 240), SEED (default 7).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
no_options "$@"
(($# <= 1)) || fail 2 "one folder at most, not $*. See $0 --help"
studies=${STUDIES:-240}
[[ $studies =~ ^[1-9][0-9]*$ ]] || fail 2 "STUDIES is '$studies'; it must be a number of studies, such as 16"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
out=${1:-demo${STUDIES:+-$STUDIES}}

mkdir -p "$out"
[[ -e $out/raw ]] || run_verb synth "$out/raw" --studies "$studies" --seed "${SEED:-7}" --prevalence demo
[[ -e $out/sheet.png ]] || run_verb synth "$out/raw" --preview "$out/sheet.png"
[[ -e $out/store ]] || run_verb prepare "$out/raw" "$out/store"
[[ -e $out/inspection ]] || run_verb inspect "$out/store" --out "$out/inspection"
run_verb train "$out/store" "$out/run" --recipe demo --resume auto
run_verb predict "$out/run" "$out/store" --split test --out "$out/submission.csv"
run_verb evaluate "$out/submission.csv" "$out/raw/stage_2_test_truth.csv" --out "$out/report" --store "$out/store"
((studies >= 100)) ||
  echo "demo: all steps work. $studies studies are too few to learn from, so the scores mean nothing; without STUDIES it is 240" >&2
