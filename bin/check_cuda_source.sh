#!/usr/bin/env bash
# Compiles the CUDA source for every architecture, and counts instructions, registers and spills of its kernels. No GPU needed.
# Usage: bin/check_cuda_source.sh [OPTIONS of tests/gpu/cuda_source.py]
# Example: PYTHON=python3.12 bin/check_cuda_source.sh
# Environment: PYTHON (.venv's, else python3).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
[[ -n ${PYTHON:-} || -x $python ]] || python=python3
exec "$python" tests/gpu/cuda_source.py "$@"
