#!/usr/bin/env bash
# Builds the image.
# Usage: docker/build.sh [OPTIONS of docker build]
# Example: STACK=volta docker/build.sh
# Environment: STACK (cu13; volta for V100 nodes), BASE (default by STACK, see docker/Dockerfile), APEX (0; 1 builds
#   NVIDIA's apex), TAG (rsna_e2e for cu13, rsna_e2e:STACK otherwise), ENGINE (docker, else podman),
#   PIP_INDEX_URL (a mirror), DRY_RUN=1 (print the command).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/engine.sh"
help_if_asked "${1:-}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

engine=$(engine)
stack=${STACK:-cu13}
case $stack in
  cu13) base=nvcr.io/nvidia/pytorch:26.05-py3 ;;
  volta) base=nvcr.io/nvidia/cuda:12.6.3-devel-ubuntu24.04 ;; # nvcc 12.6 takes its g++ 13
  *) fail 2 "STACK is '$stack'; it must be cu13 or volta" ;;
esac
arguments=(--build-arg "BASE=${BASE:-$base}" --build-arg "STACK=$stack" --build-arg "APEX=${APEX:-0}")
if [[ -n ${PIP_INDEX_URL:-} ]]; then arguments+=(--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL"); fi
run_or_print "$engine" build --file docker/Dockerfile --tag "$(image)" "${arguments[@]}" "$@" .
