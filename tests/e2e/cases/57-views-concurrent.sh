# shellcheck shell=bash
# stores: fs s3
# buildkits: all with --full
# Fifty machines push fifty targets to one reference in the same moment, and
# none of them is lost. Over a bucket, half of them push to another replica.

larder_start
servers=("$LARDER")
if [ "$STORE_KIND" = s3 ]; then
  INSTANCE=second STORE=main larder_start
  servers+=("$LARDER")
fi
base_push
readonly TARGETS=50
repo=$LARDER/cache/crowd
crowd_context crowd $TARGETS

# Real caches, each under a tag of its own; all at once they go to one tag.
builder_start a
for ((n = 1; n <= TARGETS; n++)); do
  mapfile -t to < <(cache_to "$repo:own-$n" mode=max)
  build a crowd "${to[@]}" --opt target=t$n
  manifest_of "$repo:own-$n" >"own-$n.mf"
done
builder_stop a

pushes=()
for ((n = 1; n <= TARGETS; n++)); do
  put_manifest "${servers[n % ${#servers[@]}]}/cache/crowd:shared" "own-$n.mf" &
  pushes+=($!)
done
for push in "${pushes[@]}"; do wait "$push" || fail "a push was refused"; done

builder_start b
mapfile -t from < <(cache_from "$repo:shared")
build b crowd "${from[@]}" --opt target=all
# Only the copies into the last stage are new.
assert_cached $TARGETS $((2 * TARGETS))
