#!/usr/bin/env bash
# Sets up, then runs the whole way to lung opacities on simulated chest radiographs: DICOM files, store, data report, a classifier, a
# detector, its boxes without those of images that the classifier calls negative, submissions, reports.
# Usage: bin/demo_xray.sh [OUT]     (a folder; default demo-xray, or demo-xray-N with STUDIES=N)
# Examples: STUDIES=60 bin/demo_xray.sh     shows every step in a few minutes; so few images teach nothing
#           bin/demo_xray.sh                600 radiographs, some quarter of an hour on two cores
# In the test split a view (PA, AP) tells as much of opacities as in training, in the balanced one nothing: its reports end in -balanced.
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
run_verb() { echo "+ rsna-e2e $*" >&2 && "$root/.venv/bin/rsna-e2e" "$@"; }

mkdir -p "$out"
raw=$out/raw store=$out/store
[[ -e $raw ]] ||
  run_verb synth "$raw" --kind radiograph --studies "$studies" --size 512 --prevalence demo --test-fraction 0.3 --seed "${SEED:-7}"
[[ -e $out/sheet.png ]] || run_verb synth "$raw" --kind radiograph --preview "$out/sheet.png"
[[ -e $store ]] ||
  run_verb prepare "$raw" "$store" --task pneumonia --labels "$raw/stage_2_train_labels.csv" --also "$raw/stage_2_detailed_class_info.csv"
[[ -e $out/inspection ]] || run_verb inspect "$store" --out "$out/inspection"
few=()
((studies >= 120)) || few=(--set slice_phase.epochs=2)
run_verb train "$store" "$out/classes" --recipe xray_classify_demo --resume auto "${few[@]}"
run_verb train "$store" "$out/boxes" --recipe xray_boxes_demo --resume auto "${few[@]}"
run_verb predict "$out/classes" "$store" --split test --out "$out/classes.csv"
run_verb predict "$out/boxes" "$store" --split test --out "$out/boxes.csv"
run_verb gate "$out/boxes.csv" "$out/classes.csv" --run "$out/classes" --out "$out/gated.csv"
run_verb baseline "$store" "$out/baseline.csv" --split test
for split in test balanced; do
  for predicted in classes baseline boxes gated; do
    # labels that boxes do not tell, where labels are predicted
    also=()
    [[ $predicted != classes && $predicted != baseline ]] || also=(--also "$raw/stage_2_${split}_class_info.csv")
    # the two splits are predicted together and scored apart
    run_verb evaluate "$out/$predicted.csv" "$raw/stage_2_${split}_truth.csv" "${also[@]}" --task pneumonia --allow-missing \
      --store "$store" --out "$out/report-$predicted$([[ $split == test ]] || echo -balanced)"
  done
done
((studies >= 120)) ||
  echo "demo_xray: all steps work. $studies studies are too few to learn from, so the scores mean nothing; without STUDIES it is 600" >&2
