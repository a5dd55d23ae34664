#!/usr/bin/env bash
# Full mode, stage 1: an image classifier for every crop and fold; each epoch is kept.
# Usage: bin/run_11_images.sh [OPTIONS of bin/pipeline.sh]
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part images "$@"
