#!/usr/bin/env bash
# Runs the comparison harness with Sidekey as the subject; see README.md. Arguments go to the harness.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
harness=${BENCH:?the folder of the comparison harness, the one with its run.sh}
exec "$harness/run.sh" \
  --subject "sidekey=$here/sidekey.sh ingress @RUN@ @PORT@ @BPORT@ @CERTS@ @WORKERS@" \
  --subject-egress "sidekey=$here/sidekey.sh egress @RUN@ @PORT@ @TBPORT@ @CERTS@ @WORKERS@" \
  "$@"
