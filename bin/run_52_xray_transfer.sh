#!/usr/bin/env bash
# Compares networks on radiographs with labels of your own: images to a store, one run for each network, a table and its pictures.
# Sets up first: after a change of the sources it builds the extension again (bin/setup.sh).
# Usage: bin/run_52_xray_transfer.sh [OPTIONS of rsna-e2e compare]
# Examples: DATA=images TASK=task.yaml bin/run_52_xray_transfer.sh                     images/covid/1.png, images/non/1.png ...
#           DATA=images TASK=task.yaml LABELS=labels.csv HOLDOUT=0.2 bin/run_52_xray_transfer.sh --split test
#           DATA=images TASK=task.yaml bin/run_52_xray_transfer.sh --set model.pretrained=false    without weights to download
# Environment: DATA (DICOM, PNG or JPEG files in a folder or zip), LABELS (a table; or folders, the default, that are called like
#   labels), TASK (a name or YAML file, docs/tasks.md; default pneumonia), OUT (out), HOLDOUT (share of the patients held out,
#   default none), RECIPE (xray_transfer), BACKBONES (with commas between; default five; empty for a --vary of your own alone).
# Makes OUT/store, OUT/inspection and OUT/compared/comparison.html, .csv and .json. Started again, it continues where it stopped.
# Exit codes: as rsna-e2e compare; 75: stopped by a signal and saved; start it again.
# All options, once it is set up: .venv/bin/rsna-e2e compare --help
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
out=${OUT:-out} task=${TASK:-pneumonia}
[[ -n ${DATA:-} || -e $out/store ]] || fail 2 "DATA is not set; it must be a folder or zip of radiographs. See $0 --help"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"

backbones=${BACKBONES-torchvision.squeezenet1_0,torchvision.squeezenet1_1,resnet18.tv_in1k,resnet34.tv_in1k,resnet50.tv_in1k}
mkdir -p "$out"
[[ -e $out/store ]] ||
  run_verb prepare "$DATA" "$out/store" --task "$task" --modality xr --labels "${LABELS:-folders}" ${HOLDOUT:+--holdout "$HOLDOUT"}
[[ -e $out/inspection ]] || run_verb inspect "$out/store" --task "$task" --out "$out/inspection"
run_verb compare "$out/store" "$out/compared" --recipe "${RECIPE:-xray_transfer}" --set "task=$task" \
  ${backbones:+--vary "model.backbone=$backbones"} "$@"
