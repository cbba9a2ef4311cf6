# shellcheck shell=bash
# stores: s3
# Three replicas over one bucket behind nginx, two builders that push and import
# at the same time, and one replica killed with no warning while a layer is on its
# way to it: no build fails, and everything that was pushed is CACHED afterwards.

targets=${FULL:+24}
targets=${targets:-8}
# How many are built before a layer is caught on its way is a matter of luck.
readonly MOST=100
readonly LAYER='dd if=/dev/urandom of=/big bs=1M count=12'
for replica in a b c; do INSTANCE=$replica STORE=shared larder_start; done
addresses=()
for replica in a b c; do addresses+=("$(INSTANCE=$replica larder_address)"); done
balancer_start "${addresses[@]}"
base_push "$BALANCER"
crowd_context crowd $MOST "$LAYER"
ref=$BALANCER/cache/replicas:shared
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")

# Builds what no other builder has taken, until the replica is gone, then what is
# left of the targets, and one in any case.
push_on() { # builder
  local n=1 without_it=''
  until [ -n "$without_it" ] && [ $n -ge "$targets" ]; do
    [ ! -e killed ] || without_it=1
    until mkdir "taken-$n" 2>/dev/null; do n=$((n + 1)); done
    [ $n -le $MOST ] || fail "there is no target t$n"
    build "$1" crowd "${to[@]}" "${from[@]}" --opt target=t$n || fail "build of t$n failed on builder $1"
    touch "built-$n"
  done
}

count_of() { find . -maxdepth 1 -name "$1-*" | wc -l; } # taken or built
half_built() { [ "$(count_of built)" -ge $((targets / 2)) ]; }

# A stopped process reads nothing: of a layer that is on its way to it, more lies in
# the socket than any request has that is not a layer.
layer_hangs() {
  kill -STOP "$stopped"
  sleep 0.2
  ss -tnH state established "sport = :${addresses[1]##*:}" >sockets
  if awk '$1 > 50000 { found = 1 } END { exit !found }' sockets; then return 0; fi
  kill -CONT "$stopped"
  return 1
}

builder_start one
builder_start two
push_on one &
first=$!
push_on two &
second=$!
eventually 300 half_built || fail "half of the targets are not built"
stopped=$(pid_of larder-b)
eventually 300 layer_hangs || fail "no layer was on its way to replica b"
INSTANCE=b larder_kill9
before=$(count_of built)
touch killed
wait $first || fail "builder one failed"
wait $second || fail "builder two failed"
pushed=$(count_of taken)
note "replica killed with a layer on its way, after $before of $pushed builds; every build succeeded"
builder_stop one
builder_stop two

# A builder may open an upload long before it has the bytes: longer than proxies wait by themselves.
[ -z "$FULL" ] || python3 "$E2E/lib/uploads.py" pause "$BALANCER" 75 >paused 2>&1 &
paused=$!

crowd_context crowd "$pushed" "$LAYER"
builder_start three
build three crowd "${from[@]}" --opt target=all --output type=local,dest=pulled
assert_cached "$pushed" $((2 * pushed))

# Back again, it serves what was pushed without it.
INSTANCE=b larder_launch || fail "larder did not start after a kill"
mapfile -t from < <(cache_from "$(INSTANCE=b larder_address)/cache/replicas:shared")
builder_prune three
build three crowd "${from[@]}" --opt target=all
assert_cached "$pushed" $((2 * pushed))
wait $paused || fail "an upload that paused was cut: $(cat paused)"
