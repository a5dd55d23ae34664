#!/usr/bin/env bash
# Full mode, stage 2: a recurrent head on every epoch's embeddings, and predictions by all of its epochs.
# Usage: bin/run_13_sequences.sh [OPTIONS of bin/pipeline.sh]
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part sequences "$@"
