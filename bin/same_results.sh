#!/usr/bin/env bash
# Checks that two commits give the same results, to the bit: runs the demo with each, in fp32 on one thread, and compares.
# Usage: bin/same_results.sh COMMIT [OTHER]     (default of OTHER: HEAD)
# Example: bin/same_results.sh HEAD~3
# Compares DICOM files, the store's tables and shards, weights, submission and metrics; times are left out. Names the first
# difference of each and ends with 1; with 0 where there is none. Both are built in worktrees of a temporary folder.
# Environment: STUDIES (default 24), SEED (default 7), KEEP (a folder that keeps the results of both).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "${@:---help}"
no_options "$@"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin/setup.sh
python=$PWD/.venv/bin/python
git diff --quiet HEAD || echo "note: what is not committed is not compared" >&2
folder=$(mktemp -d)
results=${KEEP:-$folder/results}
trap 'for tree in one other; do git worktree remove --force "$folder/$tree" 2> /dev/null || true; done; rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1 RSNA_WITH_CUDA=0

verb() { # TREE VERB...
  PYTHONPATH=$1 "$python" -c 'import sys; from rsna_e2e.cli import main; sys.exit(main())' "${@:2}"
}

run_demo() { # COMMIT NAME
  local tree=$folder/$2 out=$results/$2
  git worktree add --quiet --detach "$tree" "$1"
  echo "+ $2: $(git -C "$tree" log -1 --format='%h %s')" >&2
  (cd "$tree" && "$python" setup.py --quiet build_ext --inplace > build.log 2>&1) || { cat "$tree/build.log" >&2 && exit 1; }
  mkdir -p "$out"
  pushd "$out" > /dev/null
  {
    verb "$tree" synth raw --studies "${STUDIES:-24}" --seed "${SEED:-7}" --prevalence demo
    verb "$tree" prepare raw store
    verb "$tree" train store run --recipe demo --device cpu --set precision=fp32 --set cpu_threads=1 --set loader.threads=1
    verb "$tree" predict run store --split test --out submission.csv --device cpu
    verb "$tree" evaluate submission.csv raw/stage_2_test_truth.csv --out report --store store
  } > said.txt
  popd > /dev/null
}

run_demo "$1" one
run_demo "${2:-HEAD}" other
"$python" bin/same_results.py "$results/one" "$results/other"
