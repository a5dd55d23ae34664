#!/usr/bin/env bash
# Single mode: one image classifier and its heads on all the data, from beginning to end.
# Usage: bin/run_21_single.sh [OPTIONS of bin/pipeline.sh]
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" single "$@"
