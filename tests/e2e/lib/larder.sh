# shellcheck shell=bash
# Starts and stops the server under test. A case has one server unless it sets
# INSTANCE, which names another one with its own port and, unless STORE names
# one, its own store. STORE_KIND says where stores are: fs or s3.

# The server reads LARDER_… as configuration: nothing of the caller's is for it.
without=()
for name in "${!LARDER_@}"; do without+=(-u "$name"); done

# LARDER is host:port of the server started last. A case that sets WITH_TLS gives
# a [tls] table and finds in SECURE where that is spoken; LARDER stays plain.
LARDER=
WITH_TLS=
SECURE=

larder_dir() { echo "$WORK/larder/${INSTANCE:-main}"; }
larder_log() { echo "$(larder_dir)/log"; }
larder_address() { cat "$(larder_dir)/address"; } # of the instance

# The folder with the files of the store, which a bucket has as well.
larder_store() {
  if [ "$STORE_KIND" = s3 ]; then s3_file "${STORE:-${INSTANCE:-main}}"; else echo "$(larder_dir)/store"; fi
}

# Puts the store on a disk of its own, before the server starts: what is free on
# this machine's makes no difference then.
larder_own_disk() { # size
  local disk
  disk=$(larder_dir)/disk
  mkdir -p "$disk"
  mount -t tmpfs -o "size=$1" tmpfs "$disk"
  mkdir "$disk/store"
  ln -s "$disk/store" "$(larder_store)"
}

larder_store_config() {
  if [ "$STORE_KIND" = s3 ]; then
    s3_config "${STORE:-${INSTANCE:-main}}"
  else
    printf '[store]\npath = "%s"\n' "$(larder_store)"
  fi
}

free_port() {
  local port
  while :; do
    # Below the range the kernel hands out to clients.
    port=$((20000 + RANDOM % 12000))
    (exec 9<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo $port
}

larder_listen() {
  if [ -n "$WITH_TLS" ]; then
    printf '[server]\nlisten = ["%s"]\nlisten_plain = ["%s"]\n' "$SECURE" "$LARDER"
  else
    printf '[server]\nlisten = ["%s"]\n' "$LARDER"
  fi
}

# A fresh server on an empty store. Arguments are lines of configuration,
# put after the ones below: whole tables only.
larder_start() {
  local dir attempt
  dir=$(larder_dir)
  mkdir -p "$dir"
  if [ "$STORE_KIND" = s3 ] && [ -z "$S3" ]; then s3_start; fi
  for attempt in 1 2 3; do
    LARDER=127.0.0.1:$(free_port)
    [ -z "$WITH_TLS" ] || SECURE=127.0.0.1:$(free_port)
    {
      larder_listen
      larder_store_config
      printf '[log]\nformat = "json"\nfilter = "info,larder::request=debug"\n'
      [ $# = 0 ] || printf '%s\n' "$@"
    } >"$dir/larder.toml"
    echo "$LARDER" >"$dir/address"
    if larder_launch; then return 0; fi
    # Another process may have taken the port meanwhile.
    grep -qi 'in use' "$dir/log" || break
    echo "port of $LARDER was taken, attempt $attempt"
  done
  tail -20 "$dir/log"
  fail "larder did not get ready"
}

# Starts the server on the configuration, port and store it had before.
larder_launch() {
  local dir
  dir=$(larder_dir)
  LARDER=$(cat "$dir/address")
  spawn "larder-${INSTANCE:-main}" "$dir/log" \
    env "${without[@]}" "$LARDER_BIN" serve --config "$dir/larder.toml"
  eventually 60 larder_ready_or_dead && larder_ready
}

larder_ready() { curl -fsS -m 5 -o /dev/null "http://$LARDER/readyz"; }
larder_ready_or_dead() { not is_running "larder-${INSTANCE:-main}" || larder_ready; }

# As a person stops it: without the time that balancers and successors have.
larder_stop() { stop_process "larder-${INSTANCE:-main}" INT; }
larder_kill9() { stop_process "larder-${INSTANCE:-main}" KILL; }

larder_restart() {
  larder_stop
  larder_launch || fail "larder did not get ready again"
}

# Whatever a case did, the stores that it leaves are sound. One that damages a
# store on purpose, and does not mend it, sets DAMAGED.
DAMAGED=
larder_check_all() {
  local dir status=0
  [ -z "$DAMAGED" ] || return 0
  for dir in "$WORK"/larder/*/; do
    [ -e "$dir/larder.toml" ] || continue
    stop_process "larder-$(basename "$dir")" INT
    env "${without[@]}" "$LARDER_BIN" check --read-data --config "$dir/larder.toml" || status=$?
  done
  return $status
}

# The server's request log with the fields the cases use. The only place that
# knows the server's own names.
larder_requests() {
  jq -cR 'fromjson? | select(.target == "larder::request")
    | {method, path, status, bytes_in, bytes_out}' "$(larder_log)"
}

# The file in which the store keeps a blob.
blob_file() { # digest
  local hex=${1#*:}
  echo "$(larder_store)/t/default/blobs/${1%%:*}/${hex:0:2}/$hex"
}
