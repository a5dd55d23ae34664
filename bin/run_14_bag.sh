#!/usr/bin/env bash
# Full mode: the mean of all predictions, as a submission.
# Usage and environment: bin/pipeline.sh --help
exec "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part bag "$@"
