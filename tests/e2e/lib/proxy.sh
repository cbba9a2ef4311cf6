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
  eventually 10 test -s "$dir/port" || fail "wireproxy did not start"
  PROXY=127.0.0.1:$(cat "$dir/port")
}

proxy_forget() { : >"$PROXY_LOG"; }

# Counts the requests for which a jq expression holds.
proxy_count() { # expression
  jq -s "[.[] | select($1)] | length" "$PROXY_LOG"
}

proxy_sum() { # expression field
  jq -s "[.[] | select($1) | .$2] | add // 0" "$PROXY_LOG"
}
