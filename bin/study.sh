#!/usr/bin/env bash
# Sets up, then answers whether training end to end beats two stages, on simulated studies or on a store of your own.
# Usage: bin/study.sh [OUT] [OPTIONS of rsna-e2e study]     (OUT: a folder; default study)
# Examples: bin/study.sh study --set image.size=64                     three kinds of data, two hours on two CPU cores
#           bin/study.sh small --studies 40 --epochs 2 --seeds 1       to see that all steps work
#           bin/study.sh mine --store store --recipe reference --set model.slice_loss_weight=0.5
#                a store by prepare --folds 2 --holdout 0.3, on GPUs
# Makes OUT/study.md, study.json and study_curves.png. Each kind of simulated data takes 17 GB of disk. Finished steps are kept; started again, it continues where it stopped.
# Exit codes: as rsna-e2e study; 75: stopped by a signal and saved; start it again.
# All options, once it is set up: .venv/bin/rsna-e2e study --help
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
out=study
if (($#)) && [[ $1 != -* ]]; then
  out=$1
  shift
fi
run_verb study "$out" "$@"
