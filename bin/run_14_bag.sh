#!/usr/bin/env bash
# Full mode: the mean of all predictions, as a submission.
# Usage: bin/run_14_bag.sh [OPTIONS of bin/pipeline.sh]
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" full --part bag "$@"
