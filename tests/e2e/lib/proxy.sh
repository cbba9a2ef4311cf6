# shellcheck shell=bash
# wireproxy in front of a server: an independent account of what crossed the
# wire, and a network that breaks on demand (tools/wireproxy).

PROXY=
PROXY_LOG=

proxy_start() { # target [wireproxy options]
  local target=$1 dir
  shift
  dir=$(mktemp -d "$WORK/proxy-XXXX")
  PROXY_LOG=$dir/requests
  : >"$PROXY_LOG"
  spawn "$(basename "$dir")" "$dir/log" wireproxy -target "$target" -log "$PROXY_LOG" -port-file "$dir/port" "$@"
  eventually 60 test -s "$dir/port" || fail "wireproxy did not start"
  PROXY=127.0.0.1:$(cat "$dir/port")
}

proxy_forget() { proxy_settle && : >"$PROXY_LOG"; }

# A request is written down when its answer is through, which the client may
# know a moment earlier: on a busy machine, more than one.
proxy_settle() {
  local before='' now quiet=0
  while [ $quiet -lt 3 ]; do
    now=$(stat -c %s "$PROXY_LOG")
    if [ "$now" = "$before" ]; then quiet=$((quiet + 1)); else quiet=0; fi
    before=$now
    sleep 0.2
  done
}

# Counts the requests for which a jq expression holds.
proxy_count() { # expression
  proxy_settle
  jq -s "[.[] | select($1)] | length" "$PROXY_LOG"
}

proxy_sum() { # expression field
  proxy_settle
  jq -s "[.[] | select($1) | .$2] | add // 0" "$PROXY_LOG"
}
