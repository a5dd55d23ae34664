#!/usr/bin/env bash
# Full mode from beginning to end: run_01 and run_11 to run_14.
# Usage and environment: bin/pipeline.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full "$@"
