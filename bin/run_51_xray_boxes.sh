#!/usr/bin/env bash
# Finds lung opacities as boxes, as in RSNA Pneumonia 2018: images to a store, a classifier, a detector, and a submission of the boxes in
# images that the classifier does not call negative.
# Usage: bin/run_51_xray_boxes.sh [OPTIONS of rsna-e2e train, for both networks]     (with DATA=FOLDER)
# Examples: DATA=rsna-pneumonia OUT=out bin/run_51_xray_boxes.sh                        RetinaNet, gated by a DenseNet-121
#           DATA=rsna-pneumonia RECIPE=xray_masks CLASSIFIER=none bin/run_51_xray_boxes.sh    Mask R-CNN alone
#           DATA=raw RECIPE=xray_boxes_demo CLASSIFIER=xray_classify_demo bin/run_51_xray_boxes.sh   small, for two CPU cores
# DATA has the competition's stage_2_train_labels.csv, stage_2_detailed_class_info.csv, and images in folders below it; others: LABELS (a
#   table of boxes) and ALSO (a table of classes; none: without). HOLDOUT: share of the patients that become the test split, for data
#   without images that have no labels.
# Environment: OUT (out), RECIPE (xray_boxes; xray_masks, xray_segment), CLASSIFIER (xray_classify; none: no gate). Training takes all GPUs
#   of this machine, see bin/train.sh --help.
# Makes OUT/store, OUT/inspection, the runs OUT/classes and OUT/boxes, OUT/validation (the scores of the held-out fold), and
#   OUT/submission.csv. Started again, it continues where it stopped. Exit codes: as bin/train.sh; 75: saved; start it again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
out=${OUT:-out} classifier=${CLASSIFIER:-xray_classify} data=${DATA:-}
store=$out/store
[[ -n $data || -e $store ]] || fail 2 "DATA is not set; it must be a folder of radiographs and their tables. See $0 --help"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
train() { echo "+ bin/train.sh $*" >&2 && "$root/bin/train.sh" "$@"; }

also=(--also "${ALSO:-$data/stage_2_detailed_class_info.csv}")
[[ ${ALSO:-} != none ]] || also=()
mkdir -p "$out"
[[ -e $store ]] ||
  run_verb prepare "$data" "$store" --task pneumonia --labels "${LABELS:-$data/stage_2_train_labels.csv}" \
    "${also[@]}" ${HOLDOUT:+--holdout "$HOLDOUT"}
[[ -e $out/inspection ]] || run_verb inspect "$store" --out "$out/inspection"
[[ $classifier == none ]] || train "$store" "$out/classes" --recipe "$classifier" "$@"
train "$store" "$out/boxes" --recipe "${RECIPE:-xray_boxes}" "$@"
run_verb predict "$out/boxes" "$store" --split validation --out "$out/validation.csv"
run_verb evaluate "$out/validation.csv" "$out/validation.csv.truth.csv" --task pneumonia --allow-missing --store "$store" --out "$out/validation"
if [[ $classifier == none ]]; then
  run_verb predict "$out/boxes" "$store" --split test --out "$out/submission.csv"
else
  run_verb predict "$out/boxes" "$store" --split test --out "$out/boxes.csv"
  run_verb predict "$out/classes" "$store" --split test --out "$out/classes.csv"
  run_verb gate "$out/boxes.csv" "$out/classes.csv" --run "$out/classes" --out "$out/submission.csv"
fi
