#!/usr/bin/env bash
# Pulmonary embolism in two stages: image classifiers side by side, then recurrent heads for slices and for whole studies.
# Usage: bin/run_41_pe_two_stage.sh [OPTIONS of bin/pipeline.sh]
# Examples: DATA=raw OUT=out bin/run_41_pe_two_stage.sh --dry-run      the plan: steps, slices, disk, memory, and times
#           DATA=raw OUT=out bin/run_41_pe_two_stage.sh                to out/full/submission.csv.gz
#           DATA=raw OUT=out RECIPE=pe_demo bin/run_41_pe_two_stage.sh --part images     small, and one part of it alone
# RECIPE here: pe_reference (default), the published solution of RSNA-STR Pulmonary Embolism 2020 by EC601; or pe_demo, which
# two CPU cores can train. --set two_stage.match_reference=true reproduces its known bugs (docs/two_stage.md).
RECIPE=${RECIPE:-pe_reference}
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full "$@"
