#!/bin/sh
# Fills ports and intervals into prometheus.yml, which Prometheus itself cannot read from the environment, and starts it.
# start.sh --print TEMPLATE shows the result and starts nothing.
set -eu

# Every replica's address, from FGPIPE_PORT on.
servers() {
  place=0
  while [ "$place" -lt "${FGPIPE_REPLICAS:-1}" ]; do
    printf '%s"127.0.0.1:%s"' "${separator:-}" "$((${FGPIPE_PORT:-8000} + place))"
    separator=', ' place=$((place + 1))
  done
}

fill() {
  sed -e "s/@SERVERS@/$(servers)/" -e "s/@GATEWAY_PORT@/${FGPIPE_GATEWAY_PORT:-8080}/" \
    -e "s/@PROMETHEUS_PORT@/${PROMETHEUS_PORT:-9090}/" -e "s/@NODE_EXPORTER_PORT@/${NODE_EXPORTER_PORT:-9100}/" \
    -e "s/@CADVISOR_PORT@/${CADVISOR_PORT:-8081}/" -e "s/@DCGM_EXPORTER_PORT@/${DCGM_EXPORTER_PORT:-9400}/" \
    -e "s/@SCRAPE_INTERVAL_S@/${PROMETHEUS_SCRAPE_INTERVAL_S:-15}/g" "$1"
}

if [ "${1:-}" = --print ]; then
  fill "$2"
  exit
fi
fill /etc/prometheus/template.yml >/tmp/prometheus.yml
exec /bin/prometheus --config.file=/tmp/prometheus.yml --web.listen-address="127.0.0.1:${PROMETHEUS_PORT:-9090}" \
  --storage.tsdb.path=/prometheus --storage.tsdb.retention.time="${PROMETHEUS_RETENTION:-30d}" \
  --storage.tsdb.retention.size="${PROMETHEUS_RETENTION_SIZE:-8GB}"
