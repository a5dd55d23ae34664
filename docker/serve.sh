#!/usr/bin/env bash
# Serves a model from the image over TLS, as the calling user: docker compose with docker/compose.yaml. Research use only.
# Usage: docker/serve.sh COMMAND OF docker compose...
# Examples, after docker/build.sh, with a certificate and its key as PEM files:
#           export MODEL=model.rsna DATA=service TLS_CERT=cert.pem TLS_KEY=key.pem
#           docker/serve.sh up --detach
#           docker/serve.sh logs                        has the link for the first login
#           docker/serve.sh exec serve rsna-e2e serve-admin --data /data token add pacs --role upload
#           docker/serve.sh down
# Environment: MODEL (a bundle by rsna-e2e export), DATA (the folder of the service, made if missing; ./service), TLS_CERT and
#   TLS_KEY (that the calling user can read), SETTINGS (YAML, see docs/serving.md; docker/serve.yaml), ADDRESS (of this
#   machine to listen at; 127.0.0.1, 0.0.0.0 for all: `hosts` of SETTINGS has to list the names by which others call it),
#   PORT (8600), STACK or TAG (which image, as for docker/build.sh), GPUS (all or none; default all where nvidia-smi finds
#   one), DRY_RUN=1 (print the command). Podman's compose is another program, and not used.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/engine.sh"
help_if_asked "${1:---help}"

docker=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
docker compose version >/dev/null 2>&1 || fail 4 "no docker compose. Install docker and its compose plugin"
for name in MODEL TLS_CERT TLS_KEY; do
  [[ -n ${!name:-} ]] || fail 2 "$name is not set. See $0 --help"
done
settings=${SETTINGS:-$docker/serve.yaml} data=${DATA:-service}
for path in "$MODEL" "$TLS_CERT" "$TLS_KEY" "$settings"; do
  [[ -r $path ]] || fail 3 "$path: no such file, or it cannot be read"
done
mkdir -p "$data" # or the engine would make it root's
variables=("IMAGE=$(image)" "USER_ID=$(id -u)" "GROUP_ID=$(id -g)" "ADDRESS=${ADDRESS:-127.0.0.1}" "PORT=${PORT:-8600}")
variables+=("MODEL=$(realpath "$MODEL")" "DATA=$(realpath "$data")" "SETTINGS=$(realpath "$settings")")
variables+=("TLS_CERT=$(realpath "$TLS_CERT")" "TLS_KEY=$(realpath "$TLS_KEY")")
files=(--file "$docker/compose.yaml")
case $(gpus) in
  all) files+=(--file "$docker/compose.gpu.yaml") ;;
  none) ;;
  *) fail 2 "GPUS is '$GPUS'; it must be all or none" ;;
esac
run_or_print env "${variables[@]}" docker compose "${files[@]}" "$@"
