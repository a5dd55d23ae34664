#!/usr/bin/env bash
# Runs the operators' tests on the CPU under another version of torch, with the extension as it is built here.
# Usage: bin/check_torch.sh VERSION [PYTEST ARGUMENTS]
# Example: bin/check_torch.sh 2.11.0
# One build serves every torch from 2.11 on. Installs VERSION from the package index into a temporary folder (6 GB) and removes it.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "${1:---help}"
no_options "$1"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=$1
python=${PYTHON:-.venv/bin/python}
[[ -n ${PYTHON:-} || -x $python ]] || python=python3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder"
mapfile -t others < <(grep -E '^(numpy|pytest)==' requirements/cu13.txt)
"$folder/bin/python" -m pip install --disable-pip-version-check --quiet "torch==$version" "${others[@]}"
"$folder/bin/python" -c 'import torch; print("torch", torch.__version__)'
PYTHONPATH=$PWD "$folder/bin/python" -m pytest -p no:cacheprovider tests/loader/test_torch_ops*.py "${@:2}"
