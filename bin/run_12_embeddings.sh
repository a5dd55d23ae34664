#!/usr/bin/env bash
# Full mode: embeddings of every slice, view and epoch of the image classifiers.
# Usage: bin/run_12_embeddings.sh [OPTIONS of bin/pipeline.sh]
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part embeddings "$@"
