#!/usr/bin/env bash
# Compiles the CUDA source for every architecture, and counts instructions, registers and spills of its kernels. No GPU needed.
# Usage: bin/check_cuda_source.sh
# Environment: PYTHON (.venv's, else python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
[[ -n ${PYTHON:-} || -x $python ]] || python=python3
exec "$python" tests/gpu/cuda_source.py "$@"
