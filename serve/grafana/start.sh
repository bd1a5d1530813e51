#!/bin/sh
# Starts Grafana; on the network only with a password, since its default one is known to everyone.
set -eu

host=${GRAFANA_HOST:-127.0.0.1}
if [ "$host" != 127.0.0.1 ] && [ -z "${GRAFANA_ADMIN_PASSWORD:-}" ]; then
  echo "fgpipe: GRAFANA_ADMIN_PASSWORD: got nothing, expected a password off the loopback (GRAFANA_HOST=$host)" >&2
  exit 2
fi
export GF_SERVER_HTTP_ADDR="$host" GF_SERVER_HTTP_PORT="${GRAFANA_PORT:-3000}"
export GF_SECURITY_ADMIN_PASSWORD="${GRAFANA_ADMIN_PASSWORD:-admin}"
export GF_ANALYTICS_REPORTING_ENABLED=false GF_ANALYTICS_CHECK_FOR_UPDATES=false GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false
export GF_USERS_ALLOW_SIGN_UP=false GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH=/etc/grafana/dashboards/serving.json
exec "${FGPIPE_GRAFANA:-/run.sh}"
