#!/usr/bin/env bash
# Sets up, then checks format, lint and types, and runs the tests.
# Usage: bin/test.sh [--slow] [PYTEST ARGUMENTS]     --slow runs the cases of full size too
# Example: bin/test.sh tests/store -k folds
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "${1:-}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
python -m pip install --disable-pip-version-check --quiet --no-deps -r requirements/test.txt ||
  echo "test: not all of requirements/test.txt could be installed; tests that need the rest will be skipped" >&2

for script in bin/*.sh docker/*.sh; do bash -n "$script"; done
ruff format --check .
ruff check .
mypy & # beside the tests, which leave cores idle now and then
types=$!
find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cc' | LC_ALL=C sort | xargs clang-format --dry-run --Werror
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-20000} # as rsna-e2e does: see launch.py
# Two files of tests at a time, each on one core: with more threads they would wait for one another
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
code=0
python -m pytest --numprocesses 2 --dist loadfile "$@" || code=$?
wait "$types" || exit
exit "$code"
