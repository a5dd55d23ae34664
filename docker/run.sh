#!/usr/bin/env bash
# Runs a command in the image as the calling user, on the GPUs if there are any.
# Usage: docker/run.sh COMMAND [ARGUMENTS]
# Examples: DATA=/disks/ct docker/run.sh rsna-e2e prepare /data /out/store
#           docker/run.sh bin/train.sh /out/store /out/run --recipe reference
#           STACK=volta docker/run.sh bin/train.sh /out/store /out/run --recipe reference     on V100 nodes
# Environment: DATA (a folder to read, /data inside, or a zip archive, /data.zip inside; none), OUT (a folder to write,
#   /out inside; ./out), STACK or TAG (which image, as for docker/build.sh), GPUS (all, none, or some as the engine names
#   them; default all where nvidia-smi finds one), ENGINE (docker, else podman), DRY_RUN=1 (print the command). Inside, DATA
#   and OUT name those places and HOME is /out/.home; RECIPE, NPROC, NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT are
#   passed on.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/engine.sh"
help_if_asked "${1:---help}"

engine=$(engine)
out=${OUT:-$PWD/out}
mkdir -p "$out/.home"
# Loaders pass batches through shared memory, of which a container has 64 MB unless it shares the host's
arguments=(run --rm --init --ipc=host --ulimit memlock=-1 --ulimit stack=67108864)
if [[ -t 0 && -t 1 ]]; then arguments+=(--interactive --tty); fi
arguments+=(--user "$(id -u):$(id -g)" --volume "$(realpath "$out"):/out" --env OUT=/out)
arguments+=(--env HOME=/out/.home --env USER=user) # the image knows no name for this user; libraries ask for one
if [[ -n ${DATA:-} ]]; then
  [[ -d $DATA || -f $DATA ]] || fail 3 "$DATA: no such folder or archive. Set DATA to what is to be read"
  inside=/data
  if [[ -f $DATA ]]; then inside=/data.zip; fi
  arguments+=(--volume "$(realpath "$DATA"):$inside:ro" --env "DATA=$inside")
fi
for name in RECIPE NPROC NNODES NODE_RANK MASTER_ADDR MASTER_PORT; do
  if [[ -n ${!name:-} ]]; then arguments+=(--env "$name=${!name}"); fi
done
if [[ -n ${NNODES:-} ]]; then arguments+=(--network=host); fi # nodes meet at each other's addresses

gpus=$(gpus)
case ${engine##*/} in
  podman) # label: SELinux would keep the container from the folders of its own user
    arguments+=(--userns=keep-id --security-opt label=disable)
    if [[ $gpus != none ]]; then arguments+=(--device "nvidia.com/gpu=$gpus"); fi ;;
  *) if [[ $gpus != none ]]; then arguments+=(--gpus "$gpus"); fi ;;
esac
run_or_print "$engine" "${arguments[@]}" "$(image)" "$@"
