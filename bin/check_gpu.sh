#!/usr/bin/env bash
# Builds, tests and times everything that runs on a GPU; --pack packs all of it for a GPU machine without network.
# Usage: bin/check_gpu.sh [OPTIONS]     such as --rehearse (at tiny size on the CPU), --pack, --part 1, --page FILE
# Example: OUT=figures bin/check_gpu.sh
# Environment: PYTHON (.venv's, else python3), OUT (gpu_figures): where figures go.
# All options, with a Python that has torch: python3 tests/gpu/check_gpu.py --help
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
[[ -n ${PYTHON:-} || -x $python ]] || python=python3
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" tests/gpu/check_gpu.py --out "${OUT:-gpu_figures}" "$@"
