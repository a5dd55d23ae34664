#!/usr/bin/env bash
# Fast mode: recurrent heads alone, on stored embeddings (--embeddings, or those of OUT).
# Usage: bin/run_31_fast.sh [OPTIONS of bin/pipeline.sh]
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" fast "$@"
