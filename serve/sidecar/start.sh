#!/usr/bin/env bash
# Tailscale as its image starts it, and beside it the look at who has lost the sidecar's network.
set -euo pipefail
(while sleep 30; do rejoin || true; done) &
exec /usr/local/bin/containerboot
