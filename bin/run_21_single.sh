#!/usr/bin/env bash
# Single mode: one image classifier and its heads on all the data, from beginning to end.
# Usage and environment: bin/pipeline.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" single "$@"
