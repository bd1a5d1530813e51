#!/bin/sh
# Fills ports and intervals into prometheus.yml, which Prometheus itself cannot read from the environment, and starts it.
# start.sh --print TEMPLATE shows the result and starts nothing.
set -eu

replicas=${FGPIPE_REPLICAS:-1}
case $replicas in
  *[!0-9]* | 0*)
    echo "prometheus: FGPIPE_REPLICAS: got $replicas, expected a number such as 1" >&2
    exit 2
    ;;
esac

# Every server's port: that of each model if COMPOSE_FILE names their stack, else the replicas', from FGPIPE_PORT on.
ports() {
  case ${COMPOSE_FILE:-} in
    *compose.multimodel.yaml*)
      echo "${MODEL_A_PORT:-8001}" "${MODEL_B_PORT:-8002}"
      case ,${COMPOSE_PROFILES:-}, in *,three,*) echo "${MODEL_C_PORT:-8003}" ;; esac
      ;;
    *)
      place=0
      while [ "$place" -lt "$replicas" ]; do
        echo "$((${FGPIPE_PORT:-8000} + place))"
        place=$((place + 1))
      done
      ;;
  esac
}

servers() {
  for port in $(ports); do
    printf '%s"127.0.0.1:%s"' "${separator:-}" "$port"
    separator=', '
  done
}

# What answers: the adapters' server, which sync keeps in step, or full models.
stack() { case ${COMPOSE_FILE:-} in *compose.multimodel.yaml*) echo models ;; *) echo adapters ;; esac; }

fill() {
  sed -e "s/@SERVERS@/$(servers)/" -e "s/@STACK@/$(stack)/" -e "s/@GATEWAY_PORT@/${FGPIPE_GATEWAY_PORT:-8080}/" \
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
