#!/usr/bin/env bash
# Trains on all GPUs of this machine, or on its CPU: one process, or torchrun with one for every GPU. Resumes RUN if it exists.
# Sets up first: after a change of the sources it builds the extension again (bin/setup.sh).
# Usage: bin/train.sh STORE RUN [OPTIONS of rsna-e2e train]
# Example: bin/train.sh store runs/first --recipe reference --set epochs=3
# Environment: NPROC (processes on this node; default: GPUs), MAX_RESTARTS (3): how often torchrun starts again after a
#   process died. Several nodes: NNODES, NODE_RANK and MASTER_ADDR[:PORT] (of node 0), or one Slurm task on each node.
# SIGTERM and SIGUSR1 save and end. Exit codes: as rsna-e2e train; 75: stopped by a signal and saved; the same command goes on.
# All options, once it is set up: .venv/bin/rsna-e2e train --help
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/help.sh"
help_if_asked "${@:---help}"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/bin/setup.sh"
exec "$root/.venv/bin/python" -m rsna_e2e.training.launch "$@"
