# shellcheck shell=bash
# stores: s3
# Three replicas over one bucket behind nginx, two builders that push and import
# at the same time, and one replica killed with no warning in the middle of it:
# no build fails, and everything that was pushed is CACHED afterwards.

targets=${FULL:+24}
targets=${targets:-8}
for replica in a b c; do INSTANCE=$replica STORE=shared larder_start; done
addresses=()
for replica in a b c; do addresses+=("$(INSTANCE=$replica larder_address)"); done
balancer_start "${addresses[@]}"
base_push "$BALANCER"
crowd_context crowd "$targets" 'dd if=/dev/urandom of=/big bs=1M count=12'
ref=$BALANCER/cache/replicas:shared
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")

# Every second target, one after the other.
push_share() { # builder first
  local n
  for ((n = $2; n <= targets; n += 2)); do
    build "$1" crowd "${to[@]}" "${from[@]}" --opt target=t$n || fail "build of t$n failed on builder $1"
    touch "done-t$n"
  done
}

uploads_of() { # replica
  INSTANCE=$1 larder_requests | jq -s '[.[] | select(.method == "PUT" and .bytes_in > 1000000)] | length'
}
some_uploads() { [ "$(uploads_of b)" -ge 2 ]; }

builder_start one
builder_start two
push_share one 1 &
first=$!
push_share two 2 &
second=$!
eventually 60 some_uploads || fail "replica b received nothing"
INSTANCE=b larder_kill9
before=$(find . -maxdepth 1 -name 'done-t*' | wc -l)
[ "$before" -lt "$targets" ] || fail "everything had been pushed before the replica was killed"
wait $first || fail "builder one failed"
wait $second || fail "builder two failed"
note "replica killed after $before of $targets builds; every build succeeded"
builder_stop one
builder_stop two

builder_start three
build three crowd "${from[@]}" --opt target=all --output type=local,dest=pulled
assert_cached "$targets" $((2 * targets))

# Back again, it serves what was pushed without it.
INSTANCE=b larder_launch || fail "larder did not start after a kill"
mapfile -t from < <(cache_from "$(INSTANCE=b larder_address)/cache/replicas:shared")
builder_prune three
build three crowd "${from[@]}" --opt target=all
assert_cached "$targets" $((2 * targets))
