#!/usr/bin/env bash
# Full mode, stage 1: an image classifier for every crop and fold; each epoch is kept.
# Usage and environment: bin/pipeline.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part images "$@"
