#!/usr/bin/env bash
# Prepares: DICOM files to OUT/store, read once for all modes.
# Usage and environment: bin/pipeline.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part prepare "$@"
