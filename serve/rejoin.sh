#!/usr/bin/env bash
# Starts again what lost the sidecar's network, which all others share. The sidecar runs it twice a minute; by hand:
#   ssh root@fgpipe rejoin
# A sidecar that restarts has a new network, and the others go on in the old one, which leads nowhere. A container that
# Docker starts while the sidecar is down, as after a reboot, fails, and Docker does not try again (moby#50326).
# What somebody stopped stays stopped.
set -euo pipefail

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

# sortable TIME: Docker's time with all nine digits, so that the later one is the larger text.
sortable() {
  local time=${1%Z} fraction=
  if [[ $time == *.* ]]; then fraction=${time#*.}; fi
  printf '%s.%-9s' "${time%%.*}" "$fraction" | tr ' ' 0
}

main() {
  local sidecar id since health service network status started failed
  local -a lost=() down=()
  sidecar=$(docker compose ps --quiet tailscale)
  if [[ -z $sidecar ]]; then return; fi
  read -r id since health < <(docker container inspect --format '{{.Id}} {{.State.StartedAt}} {{.State.Health.Status}}' "$sidecar")
  # While it is not in the tailnet nobody gains by a restart, and it may be restarting every minute.
  if [[ $health != healthy ]]; then return; fi
  since=$(sortable "$since")
  while read -r service network status started failed; do
    if [[ $network != "container:$id" ]]; then continue; fi
    if [[ $status == running && $(sortable "$started") < $since ]]; then lost+=("$service"); fi
    if [[ $status == @(exited|created) && $failed == true ]]; then down+=("$service"); fi
  done < <(
    docker compose ps --all --quiet | xargs docker container inspect --format \
      '{{index .Config.Labels "com.docker.compose.service"}} {{.HostConfig.NetworkMode}} {{.State.Status}} {{.State.StartedAt}} {{ne .State.Error ""}}'
  )
  if ((${#lost[@]} + ${#down[@]} == 0)); then return; fi
  printf 'rejoin: started again, as the sidecar was: %s\n' "${lost[*]} ${down[*]}" >&2
  if ((${#lost[@]})); then docker compose stop "${lost[@]}"; fi
  docker compose start "${lost[@]}" "${down[@]}" # in the order of their dependencies
}

# All of it is read before an update changes this file.
main
exit
