#!/usr/bin/env bash
# Joint mode, the end-to-end counterpart of run_21: backbone and head trained jointly on all the data.
# Usage and environment: bin/pipeline.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" joint "$@"
