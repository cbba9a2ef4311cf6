# shellcheck shell=bash
# stores: fs
# The server is stopped and started again in the middle of 20 exports of real
# BuildKit, without ignore-error. No build fails when the listening socket outlives
# the server, and none when the next server is started before the first one has ended.
# How many fail when it is started afterwards is counted.

readonly EXPORTS=20
larder_start
builder_start a

# Data of its own for each build: everything has to be sent.
contexts() { # round
  local build layer
  for build in $(seq $EXPORTS); do
    mkdir -p "contexts/$1/$build"
    {
      echo FROM scratch
      for layer in 1 2 3 4 5 6; do
        head -c 300000 /dev/urandom >"contexts/$1/$build/$layer"
        echo "COPY $layer /$layer"
      done
    } >"contexts/$1/$build/Dockerfile"
  done
}
stored() { curl -fsS -m 5 "http://$LARDER/metrics" 2>/dev/null | sed -n 's/^larder_blobs_stored_total //p'; }

# All builds at once; `again` stops the server and starts it again when a part of the blobs has been sent. Leaves the number
# of builds that failed in `failed`.
round() { # name again
  local build pids=() before
  contexts "$1"
  before=$(stored)
  for build in $(seq $EXPORTS); do
    bctl a build --frontend dockerfile.v0 --local "context=contexts/$1/$build" --local "dockerfile=contexts/$1/$build" \
      --export-cache "type=registry,ref=$LARDER/stop/$1:$build,mode=max" >"$1-$build.log" 2>&1 &
    pids+=($!)
  done
  some_are_sent() { [ "$(($(stored) - before))" -ge 20 ]; }
  eventually 120 some_are_sent || fail "the exports do not begin"
  sent=$(($(stored) - before))
  $2
  failed=0
  for build in "${pids[@]}"; do wait "$build" || failed=$((failed + 1)); done
  note "$1: $failed of $EXPORTS exports failed; the first server was sent $sent blobs, the next one $(stored)"
}

# The next server is started while the first one drains, and takes its sockets over.
successor() {
  local first
  first=$(pid_of larder-main)
  kill -TERM "$first"
  eventually 60 not larder_ready || fail "the server does not drain"
  larder_launch || fail "the next server did not get ready"
  not alive "$first" || fail "the first server has not ended"
}
round successor successor
# It was in the middle.
[ "$(stored)" -ge 1 ] || fail "all was sent before the server stopped"
grep -q 'a successor has taken the listening sockets' "$(larder_log)" || fail "no sockets were handed over"
assert_eq "$failed" 0 "exports that failed while a successor took over"

# Started when the first one has ended, as a service manager without a socket does it. The first one serves on while it
# drains, and waits for no builder when it is stopped by ctrl-C.
afterwards() { # signal
  local first
  first=$(pid_of larder-main)
  kill "-$1" "$first"
  eventually 90 not alive "$first" || fail "the server does not end"
  larder_launch || fail "the next server did not get ready"
}
drained() { afterwards TERM; }
interrupted() { afterwards INT; }
round drained drained
round interrupted interrupted

# The socket is held by another process, as by systemd.
stop_process larder-main
address=$LARDER
spawn larder-main "$(larder_log)" python3 "$E2E/lib/held_socket.py" "$address" \
  env "${without[@]}" "$LARDER_BIN" serve --config "$(larder_dir)/larder.toml"
eventually 60 larder_ready || fail "the server with the socket did not get ready"
restart() { kill -HUP "$(pid_of larder-main)"; }
round socket restart
[ "$(stored)" -ge 1 ] || fail "all was sent before the server stopped"
assert_eq "$failed" 0 "exports that failed under a socket that outlives the server"
