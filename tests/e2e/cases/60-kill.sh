# shellcheck shell=bash
# stores: fs
# Killed with no warning while 16 clients push, again and again: whatever a
# client was told is there is there, byte for byte, and a restart needs no
# repair.

rounds=5
[ -z "$FULL" ] || rounds=50

acknowledged_at_least() { [ "$(cat "$2" 2>/dev/null | wc -l)" -ge "$1" ]; }
uploads() { python3 "$E2E/lib/uploads.py" "$@"; }

larder_start
touch acknowledged
busy=0
# More of them, where so far every kill came between two uploads.
for ((round = 1; round <= rounds || busy == 0 && round <= 10 * rounds; round++)); do
  uploads push "$LARDER" 16 "$round" "acknowledged.$round" &
  clients=$!
  # Somewhere in the middle: between the first answers and many.
  eventually 300 acknowledged_at_least $((RANDOM % 60 + 1)) "acknowledged.$round" || fail "nothing is acknowledged"
  larder_kill9
  wait $clients || fail "a push was refused"
  # What was being received is left behind as temporary files.
  [ -z "$(find "$(larder_store)/.larder/tmp" -type f)" ] || busy=$((busy + 1))
  larder_launch || fail "larder did not start after kill $round"
  [ -z "$(find "$(larder_store)/.larder/tmp" -type f)" ] || fail "a restart leaves temporary files"
  uploads verify "$LARDER" "acknowledged.$round" >verified || fail "lost after kill $round"
  echo "kill $round: $(cat verified)"
  cat "acknowledged.$round" >>acknowledged
done
uploads verify "$LARDER" acknowledged >verified || fail "lost after a later kill"
[ "$(wc -l <acknowledged)" -ge "$rounds" ] || fail "hardly anything was acknowledged"
[ $busy -gt 0 ] || fail "no kill came in the middle of an upload"
note "$((round - 1)) kills, $busy of them in the middle of uploads: $(cat verified)"
