#!/usr/bin/env bash
# Does the CUDA source compile for every architecture, and what do its kernels cost? No GPU needed. Usage: bin/check_cuda_source.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
[[ -n ${PYTHON:-} || -x $python ]] || python=python3
exec "$python" tests/gpu/cuda_source.py "$@"
