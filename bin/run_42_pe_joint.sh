#!/usr/bin/env bash
# Pulmonary embolism end to end, the counterpart of run_41: one model of backbone and heads over whole studies.
# Usage: bin/run_42_pe_joint.sh [OPTIONS of bin/pipeline.sh]
# Examples: DATA=raw OUT=out bin/run_42_pe_joint.sh --dry-run          the plan: slices, disk, memory, and times
#           DATA=raw OUT=out bin/run_42_pe_joint.sh                    to out/joint/submission.csv.gz
#           DATA=raw OUT=out RECIPE=pe_demo bin/run_42_pe_joint.sh     small
# RECIPE here: pe (default), ResNeXt-50 at 384 px, for GPUs; or pe_demo, which two CPU cores can train.
RECIPE=${RECIPE:-pe}
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" joint "$@"
