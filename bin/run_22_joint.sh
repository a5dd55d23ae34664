#!/usr/bin/env bash
# Joint mode, the end-to-end counterpart of run_21: backbone and head trained jointly on all the data.
# Usage: bin/run_22_joint.sh [OPTIONS of bin/pipeline.sh]
. "$(dirname "${BASH_SOURCE[0]}")/pipeline.sh" joint "$@"
