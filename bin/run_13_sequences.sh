#!/usr/bin/env bash
# Full mode, stage 2: a recurrent head on every epoch's embeddings, and what all its epochs predict.
# Usage and environment: bin/pipeline.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part sequences "$@"
