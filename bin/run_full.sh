#!/usr/bin/env bash
# Full mode from beginning to end: run_01 and run_11 to run_14.
# Usage: bin/run_full.sh [OPTIONS of bin/pipeline.sh]
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full "$@"
