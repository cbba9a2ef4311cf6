# shellcheck shell=bash
# buildkits: all
# A layer disappears from the store behind the server's back. The next build
# still succeeds, and re-runs only the step whose layer is gone and what is
# built on it. Shown for each layer in turn.

# The base image comes from elsewhere: losing that would be another matter.
INSTANCE=images larder_start
base_push
larder_start
ref=$LARDER/cache/chain:latest
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")
readonly STEPS=4

builder_start a
build a "$CONTEXTS/chain" "${to[@]}" --output type=local,dest=made
builder_stop a

# From the bottom: the base, then one layer a step.
config_of "$ref" >config.json
mapfile -t chain < <(jq -r '
  .layers as $l
  | [range($l | length)] | map([., [recurse($l[.].parent // 0 | select(. >= 0))] | length])
  | sort_by(.[1])[] | $l[.[0]].blob' config.json)
assert_eq "${#chain[@]}" $((STEPS + 1)) "layers of the cache"

builder_start b
for ((lost = 0; lost <= STEPS; lost++)); do
  file=$(blob_file "${chain[lost]}")
  mv "$file" lost
  # Of a bucket it would serve from memory what is lost there.
  [ "$STORE_KIND" = fs ] || larder_restart
  builder_prune b
  rm -rf pulled
  build b "$CONTEXTS/chain" "${from[@]}" --output type=local,dest=pulled ||
    fail "the build failed after layer $lost was lost"
  # Steps count from one; without the base layer nothing stands.
  kept=$((lost == 0 ? 0 : lost - 1))
  assert_cached $kept $STEPS
  assert_file_eq pulled/again/source.txt made/again/source.txt "output without layer $lost"
  if [ $kept -ge 2 ]; then assert_file_eq pulled/first made/first "kept result without layer $lost"; fi
  mkdir -p "$(dirname "$file")"
  mv lost "$file"
done

# With everything back, everything is CACHED again.
[ "$STORE_KIND" = fs ] || larder_restart
builder_prune b
build b "$CONTEXTS/chain" "${from[@]}"
assert_all_cached $STEPS
