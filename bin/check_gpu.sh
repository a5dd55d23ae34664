#!/usr/bin/env bash
# Builds, tests and times everything that runs on a GPU; --pack packs all of it for a GPU machine without network.
# Usage: bin/check_gpu.sh --help
# Environment: PYTHON (.venv's, else python3), OUT (gpu_figures): where figures go.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
[[ -n ${PYTHON:-} || -x $python ]] || python=python3
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" tests/gpu/check_gpu.py --out "${OUT:-gpu_figures}" "$@"
