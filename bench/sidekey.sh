#!/usr/bin/env bash
# Starts Sidekey as a subject of a comparison: it stays in the foreground and is one process.
#   bench/sidekey.sh ingress|egress RUN PORT TO CERTS WORKERS
# RUN: a folder of its own. PORT: where to listen. TO: the plain backend's or the mTLS upstream's port. CERTS: the harness's
# folder, which holds pairs of several roles and is therefore no keyring itself. Everything not named here is at its default.
# The environment: SIDEKEY, the absolute path of the executable; SIDEKEY_BENCH_ACCESS=true, the access log; SIDEKEY_BENCH_ADMIN, an
# address for the admin listener, and with it a registry; SIDEKEY_BENCH_CONNECTIONS, more connections than the default, which may be
# idle for longer: opening them takes its time.
set -euo pipefail
side=$1 run=$2 port=$3 to=$4 certs=$5 workers=$6
sidekey=${SIDEKEY:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/release/sidekey}
[[ $sidekey == /* && -x $sidekey ]] || { echo "SIDEKEY must be the absolute path of an executable: $sidekey" >&2; exit 2; }

case $side in
  ingress)
    pair=server
    listener="[[ingress]]
keyrings = [\"in\"]
backend = \"http://127.0.0.1:$to\""
    ;;
  egress)
    pair=client
    listener="[[egress]]
keyring = \"in\"
upstream = \"https://127.0.0.1:$to\"
server_name = \"localhost\""
    ;;
  *)
    echo "ingress or egress, not $side" >&2
    exit 2
    ;;
esac
state='' admin='' limits=''
if [ -n "${SIDEKEY_BENCH_ADMIN:-}" ]; then
  state='state = "state"'
  admin="[admin]
listen = \"$SIDEKEY_BENCH_ADMIN\""
fi
[ -z "${SIDEKEY_BENCH_CONNECTIONS:-}" ] || limits="[$side.limits]
connections = $SIDEKEY_BENCH_CONNECTIONS
idle = \"30m\""

umask 077
rm -rf "$run/certs"
mkdir -p "$run/certs/in"
cp "$certs/$pair.pem" "$certs/$pair.key" "$run/certs/in/"
cp "$certs/root.pem" "$run/certs/in/ca.crt"
chmod 600 "$run/certs/in/"*
cat > "$run/sidekey.toml" <<TOML
certs = "certs"
workers = $workers
$state

$admin

[log]
access = ${SIDEKEY_BENCH_ACCESS:-false}

$listener
name = "bench"
listen = "127.0.0.1:$port"
$limits
TOML
exec "$sidekey" run --config "$run/sidekey.toml"
