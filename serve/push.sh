#!/usr/bin/env bash
# Brings a published adapter from this machine's folder to the box, over Tailscale SSH:
#   serve/push.sh sql            to the box called fgpipe
#   serve/push.sh sql otherbox
# A version appears on the box whole or not at all, and the pointer comes last; the box's sync then makes it answer.
set -euo pipefail

name=${1:-}
host=${2:-fgpipe}
folder=${FGPIPE_ADAPTERS:-adapters}/$name
there=${FGPIPE_BOX_ADAPTERS:-/adapters}/$name

refuse() { printf 'push: %s\n' "$*" >&2; exit 2; }
say() { printf 'push: %s\n' "$*" >&2; }
# shellcheck disable=SC2029  # what is asked of the box is put together here
box() { ssh "root@$host" "$@"; }

[[ $name =~ ^[a-z0-9][a-z0-9._-]{0,63}$ ]] || refuse "got '$name', expected the name of an adapter: serve/push.sh sql"
[[ -f $folder/channel.json ]] || refuse "$folder/channel.json: got none, expected a published adapter; python -m fgpipe publish task=$name"

# Prints the versions that channel.json names, then a line with the highest number ever given.
read_channel() {
  python3 -c '
import json, re, sys
channel = json.load(sys.stdin)
versions = {channel.get("current"), channel.get("previous"), *channel.get("aliases", {}).values()} - {None}
assert all(re.fullmatch("v[0-9]{4,9}", version) for version in versions), versions
print(*sorted(versions))
print(channel.get("last", 0))'
}

{ read -r -a versions; read -r last; } < <(read_channel <"$folder/channel.json")
known=$(box "cat '$there/channel.json' 2>/dev/null || echo '{}'" | read_channel | tail -n 1)
((known <= last)) || refuse "$host has $name up to number $known, this folder only to $last: somebody published from elsewhere"

for version in "${versions[@]}"; do
  ours=$(sha256sum <"$folder/$version/manifest.json")
  theirs=$(box "cat '$there/$version/manifest.json' 2>/dev/null || true" | sha256sum)
  if [[ $ours == "$theirs" ]]; then continue; fi
  if box "test -e '$there/$version'"; then refuse "$host has another $name $version: somebody published from elsewhere"; fi
  say "$name $version -> $host"
  # tar takes a stream that ends between two of its blocks for a whole one: what arrived is compared before it is named.
  tar -C "$folder" -c "$version" | box "rm -rf '$there/.incoming'; mkdir -p '$there/.incoming'; tar -x -o -C '$there/.incoming'"
  digest="find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
  ours=$(cd "$folder/$version" && sh -c "$digest")
  theirs=$(box "cd '$there/.incoming/$version' && $digest")
  if [[ $ours != "$theirs" ]]; then say "$name $version did not arrive whole; nothing has changed on $host"; exit 1; fi
  box "chown -R \"\$(stat -c %u:%g '$there/..')\" '$there'; sync; mv '$there/.incoming/$version' '$there/$version'"
done
box "set -e; cat >'$there/.channel.new'; chown \"\$(stat -c %u:%g '$there/..')\" '$there/.channel.new'; sync
  rmdir '$there/.incoming' 2>/dev/null || true; mv '$there/.channel.new' '$there/channel.json'" <"$folder/channel.json"
say "done; sync on $host makes it answer within seconds. To see: uv run serve/test_connection.py --url http://$host:8080 $name"
