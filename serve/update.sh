#!/usr/bin/env bash
# Pull, build, restart, wait for health; back to the revision before if health does not come.
#   update.sh                what is built from this repository, but not the sidecar: it is the shell this may run in
#   update.sh --everything   all of it; on the box itself, not in the sidecar
#   update.sh --force        also if there is nothing new, and a revision that failed before
# Exit status: 0 done or nothing to do, 1 rolled back, 2 refused. Safe to run again at any time, also after a kill.
set -euo pipefail

here=$(cd -P "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
cd "$here"
state=$(git rev-parse --absolute-git-dir)/fgpipe-update
fixed='^(tailscale|docker-proxy|docker-reader|node-exporter|cadvisor|dcgm-exporter)$'
mark=${FGPIPE_SIDECAR_MARK:-/etc/fgpipe-sidecar} # is there in the sidecar only
everything=false
force=false

say() { printf 'update: %s\n' "$*" >&2; }
refuse() { say "$@"; exit 2; }

read_words() {
  local word
  for word in "$@"; do
    case $word in
      --everything) everything=true ;;
      --force) force=true ;;
      *) refuse "$word: got an unknown word, expected --everything or --force" ;;
    esac
  done
}

setting() { # setting NAME DEFAULT: its value in .env
  local value
  value=$(sed -n "s/^$1=//p" .env | tail -n 1)
  printf '%s' "${value:-$2}"
}

# What would go wrong half-way is refused before anything changes.
check() {
  [[ -f .env ]] || refuse "$here/.env: got none, expected the settings; cp .env.example .env and edit it"
  local changed
  changed=$(git status --porcelain --untracked-files=no)
  [[ -z $changed ]] || refuse "the checkout has changes that are not committed; commit or undo them (git reset --hard):" $'\n'"$changed"
  git rev-parse --quiet --verify '@{upstream}' >/dev/null ||
    refuse "branch $(git rev-parse --abbrev-ref HEAD): got no upstream, expected one; git branch --set-upstream-to=origin/main"
  docker info >/dev/null 2>&1 || refuse "docker: got no answer, expected a running engine"
  if [[ -e $mark ]]; then
    $everything && refuse "--everything: it would replace the sidecar, the shell this runs in; run it on the box itself"
    check_paths
  fi
}

# Docker Desktop translates /mnt/d and D:\ for clients on Windows and in WSL, but not for one in a container.
check_paths() {
  [[ $(docker info --format '{{.OperatingSystem}}') == "Docker Desktop" ]] || return 0
  local name value
  for name in FGPIPE_MODELS_DIR FGPIPE_ADAPTERS_DIR HF_CACHE_DIR VLLM_CACHE_DIR FGPIPE_SECRETS_DIR; do
    value=$(setting "$name" "")
    if [[ $value =~ ^(/mnt/[a-z]/|[A-Za-z]:) ]]; then
      refuse "$name: got $value, expected the spelling that Docker itself knows: /run/desktop/mnt/host/d/… for drive D"
    fi
  done
}

services() {
  if $everything; then docker compose config --services; else docker compose config --services | grep -Ev "$fixed"; fi
}

images() { docker compose config --images | grep -E '^fgpipe/.*:local$' | sort -u; }

# retag FROM TO: every image of ours that has the tag FROM also gets the tag TO.
retag() {
  local image
  for image in $(images); do
    image=${image%:*}
    if docker image inspect "$image:$1" >/dev/null 2>&1; then docker tag "$image:$1" "$image:$2"; fi
  done
}

restart() { # the services as the checkout and its images say; fails if one does not become healthy
  local -a names
  mapfile -t names < <(services)
  docker compose up --detach --no-deps --wait --wait-timeout "$(($(setting FGPIPE_START_TIMEOUT_S 300) + 120))" "${names[@]}"
}

build() {
  local -a names
  mapfile -t names < <(services)
  docker compose build "${names[@]}"
}

short() { git rev-parse --short=12 "$1"; }

# The file `state` tells an update that was killed: what was live before, what was to come, and how far it got.
note() { printf '%s\n' "$1" >"$state.new" && mv "$state.new" "$state"; }

roll_back() { # roll_back BEFORE AFTER
  say "back to $(short "$1")"
  note "back $1 $2"
  git reset --quiet --keep "$1"
  retag previous local
  if ! restart; then
    say "$(short "$1") does not become healthy either; docker compose ps and docker compose logs tell why"
  fi
  printf '%s\n' "$2" >"$state-failed"
  rm -f "$state"
  if [[ $1 == "$2" ]]; then
    say "nothing newer was there to take back: is it a line of .env? docker compose ps and docker compose logs tell"
    exit 1
  fi
  say "rolled back to $(short "$1"); $(short "$2") is not tried again until something newer is pushed (or --force)"
  exit 1
}

bring_up() { # bring_up BEFORE AFTER
  if ! build; then
    say "$(short "$2") cannot be built"
    roll_back "$1" "$2"
  fi
  if ! restart; then
    say "$(short "$2") does not become healthy"
    roll_back "$1" "$2"
  fi
  rm -f "$state" "$state-failed"
  say "running $(short "$2")"
  if ! $everything && ! git diff --quiet "$1" "$2" -- sidecar 'compose*.yaml'; then
    say "sidecar or compose files changed too: update.sh --everything on the box brings that up"
  fi
}

# The sidecar's user is root; the checkout belongs to somebody on the box, who wants to go on using it.
# shellcheck disable=SC2317  # the trap calls it
give_back() { if [[ -e $mark ]]; then chown -R "$(stat -c %u:%g .)" "$(git rev-parse --show-toplevel)"; fi; }

main() {
  read_words "$@"
  trap give_back EXIT
  exec 9>"$state.lock"
  flock -n 9 || refuse "another update is running"
  check
  if [[ -f $state ]]; then # killed before it was done
    local phase before after
    read -r phase before after <"$state"
    say "the update from $(short "$before") to $(short "$after") was interrupted"
    if [[ $phase == back ]]; then roll_back "$before" "$after"; fi
    git merge --quiet --ff-only "$after"
    bring_up "$before" "$after"
    return
  fi
  git fetch --quiet
  local old new
  old=$(git rev-parse HEAD)
  new=$(git rev-parse '@{upstream}')
  git merge-base --is-ancestor "$old" "$new" || refuse "the checkout has commits that its upstream lacks; push or drop them"
  if ! $force; then
    if [[ $old == "$new" ]]; then say "nothing new: $(short "$old")"; return; fi
    if [[ -f $state-failed && $(<"$state-failed") == "$new" ]]; then
      refuse "$(short "$new") failed before; push a newer revision, or --force"
    fi
  fi
  say "$(short "$old") -> $(short "$new")"
  retag local previous
  note "forward $old $new"
  git merge --quiet --ff-only "$new"
  bring_up "$old" "$new"
}

# All of it is read before the checkout, and with it this file, changes.
main "$@"
exit
