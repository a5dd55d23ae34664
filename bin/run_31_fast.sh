#!/usr/bin/env bash
# Fast mode: recurrent heads alone, on stored embeddings (--embeddings, or those of OUT).
# Usage and environment: bin/pipeline.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" fast "$@"
