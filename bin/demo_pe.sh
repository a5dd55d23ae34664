#!/usr/bin/env bash
# Sets up, then runs the whole way to pulmonary embolism on simulated CT angiographies: DICOM files, store, data report, joint
# training over whole studies, submission, report.
# Usage: bin/demo_pe.sh [OUT]     (a folder; default demo-pe, or demo-pe-N with STUDIES=N)
# Examples: STUDIES=12 bin/demo_pe.sh     shows every step in a few minutes; three test studies say nothing of scores
#           bin/demo_pe.sh              240 studies of 80 to 100 slices, some twenty minutes on two cores
# The first run installs the dependencies (7.7 GB, some minutes). Finished steps are kept; started again, it continues where it
# stopped. Environment: STUDIES (default 240), SEED (default 7).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
no_options "$@"
(($# <= 1)) || fail 2 "one folder at most, not $*. See $0 --help"
studies=${STUDIES:-240}
[[ $studies =~ ^[1-9][0-9]*$ ]] || fail 2 "STUDIES is '$studies'; it must be a number of studies, such as 12"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
out=${1:-demo-pe${STUDIES:+-$STUDIES}}

mkdir -p "$out"
[[ -e $out/raw ]] ||
  run_verb synth "$out/raw" --kind ctpa --studies "$studies" --seed "${SEED:-7}" --prevalence demo --thick
[[ -e $out/sheet.png ]] || run_verb synth "$out/raw" --kind ctpa --preview "$out/sheet.png"
[[ -e $out/store ]] || run_verb prepare "$out/raw" "$out/store" --task pe
[[ -e $out/inspection ]] || run_verb inspect "$out/store" --out "$out/inspection"
few=()
((studies >= 60)) || few=(--set slice_phase.sampling=all --set slice_phase.epochs=2) # few studies may have no embolus to balance
run_verb train "$out/store" "$out/run" --recipe pe_demo --resume auto "${few[@]}"
run_verb predict "$out/run" "$out/store" --split test --out "$out/submission.csv"
run_verb evaluate "$out/submission.csv" "$out/raw/test_truth.csv" --task pe --out "$out/report" --store "$out/store"
((studies >= 60)) ||
  echo "demo_pe: all steps work. $studies studies are too few to learn from, so the scores mean nothing; without STUDIES it is 240" >&2
