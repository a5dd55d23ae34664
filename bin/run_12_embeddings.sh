#!/usr/bin/env bash
# Full mode: embeddings of every slice, view and epoch of the image classifiers.
# Usage and environment: bin/pipeline.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part embeddings "$@"
