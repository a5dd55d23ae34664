#!/usr/bin/env bash
# Sets up, then runs the whole way to lung opacities on simulated chest radiographs: DICOM files, store, data report, a classifier, a
# detector, its boxes without those of images that the classifier calls negative, submissions, reports.
# Usage: bin/demo_xray.sh [OUT]     (a folder; default demo-xray, or demo-xray-N with STUDIES=N)
# Examples: STUDIES=60 bin/demo_xray.sh     shows every step in a few minutes; so few images teach nothing
#           bin/demo_xray.sh                600 radiographs, some quarter of an hour on two cores
# In the test split a view (PA, AP) tells as much of opacities as in training, in the balanced one nothing: there are reports of both.
# The first run installs the dependencies (7.7 GB, some minutes). Finished steps are kept; started again, it continues where it
# stopped. Environment: STUDIES (default 600), SEED (default 7).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
no_options "$@"
(($# <= 1)) || fail 2 "one folder at most, not $*. See $0 --help"
studies=${STUDIES:-600}
[[ $studies =~ ^[1-9][0-9]*$ ]] || fail 2 "STUDIES is '$studies'; it must be a number of studies, such as 60"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
out=${1:-demo-xray${STUDIES:+-$STUDIES}}

mkdir -p "$out"
raw=$out/raw
[[ -e $raw ]] ||
  run_verb synth "$raw" --kind radiograph --studies "$studies" --size 512 --prevalence demo --test-fraction 0.3 --seed "${SEED:-7}"
[[ -e $out/sheet.png ]] || run_verb synth "$raw" --kind radiograph --preview "$out/sheet.png"
few=()
((studies >= 120)) || few=(--set slice_phase.sampling=all --set slice_phase.epochs=2) # few images may have no opacity to balance
DATA=$raw OUT=$out RECIPE=xray_boxes_demo CLASSIFIER=xray_classify_demo "$root/bin/run_51_xray_boxes.sh" "${few[@]}"
run_verb baseline "$out/store" "$out/baseline.csv" --split test
for split in test balanced; do
  for predicted in baseline classes boxes submission; do
    also=() # a table of the labels that boxes do not tell, where labels are predicted
    [[ $predicted != baseline && $predicted != classes ]] || also=(--also "$raw/stage_2_${split}_class_info.csv")
    # both splits are predicted together and scored apart
    run_verb evaluate "$out/$predicted.csv" "$raw/stage_2_${split}_truth.csv" "${also[@]}" --task pneumonia --allow-missing \
      --store "$out/store" --out "$out/report-$predicted-$split"
  done
done
((studies >= 120)) ||
  echo "demo_xray: all steps work. $studies studies are too few to learn from, so the scores mean nothing; without STUDIES it is 600" >&2
