#!/usr/bin/env bash
# Runs the benchmarks: the fused operator and other libraries, the loader, training. Prints tables, writes JSON to OUT.
# Usage: bin/bench_throughput.sh [STORE]     (default: a small simulated one, made in OUT)
# Example: OUT=/tmp/bench ROUNDS=3 bin/bench_throughput.sh
# Environment: OUT (default bench), RECIPE (default demo), STUDIES (of the simulated store, default 24), ROUNDS (7).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "$@"
no_options "$@"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
out=${OUT:-bench}
rounds=${ROUNDS:-7}
store=${1:-$out/store}

echo "+ pip install -r requirements/bench.txt" >&2
"$root/.venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps -r "$root/requirements/bench.txt" ||
  echo "bench_throughput: the other libraries could not be installed; those that are missing will be listed" >&2

mkdir -p "$out"
if [[ $# -eq 0 && ! -e $store ]]; then
  [[ -e $out/raw ]] || run_verb synth "$out/raw" --studies "${STUDIES:-24}" --seed 7 --prevalence demo
  run_verb prepare "$out/raw" "$store"
fi
run_verb bench transform --store "$store" --rounds "$rounds" --out "$out/transform.json"
run_verb bench loader "$store" --recipe "${RECIPE:-demo}" --rounds "$rounds" --out "$out/loader.json"
run_verb bench train "$store" --recipe "${RECIPE:-demo}" --rounds "$rounds" --out "$out/train.json"
