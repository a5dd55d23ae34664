#!/usr/bin/env bash
# Prepares: DICOM files to OUT/store, read once for all modes.
# Usage: bin/run_01_prepare.sh [OPTIONS of bin/pipeline.sh]
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part prepare "$@"
