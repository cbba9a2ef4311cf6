# shellcheck shell=bash
# buildkits: all
# A layer disappears from the store behind the server's back. The next build
# still succeeds, and re-runs only the step whose layer is gone and what is
# built on it. Shown for each layer in turn. A cache that is asked for by its digest
# cannot be changed: it is not there, and the build goes on without it. Where a cache
# is served with what is gone, the build fails.

# The base image comes from elsewhere: losing that would be another matter.
INSTANCE=images larder_start
base_push
larder_start
ref=$LARDER/cache/chain:latest
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")
readonly STEPS=4

# A plain registry: the one that crane has for tests.
PLAIN=127.0.0.1:$(free_port)
mkdir plain
spawn plain plain.log crane registry serve --address "$PLAIN" --disk plain
eventually 20 curl -fsS "http://$PLAIN/v2/" || fail "the plain registry did not start: $(cat plain.log)"
mapfile -t to_plain < <(cache_to "$PLAIN/cache/chain:latest" mode=max)
mapfile -t from_plain < <(cache_from "$PLAIN/cache/chain:latest")

builder_start a
build a "$CONTEXTS/chain" "${to[@]}" "${to_plain[@]}" --output type=local,dest=made
pushed=$(digest_of "$ref")
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

# Other ways to be served a cache that lacks its topmost layer.
top=${chain[STEPS]#sha256:}
file=$(blob_file "${chain[STEPS]}")
mv "$file" lost
# What it still has in memory it would serve.
larder_restart
builder_prune b
mapfile -t from_digest < <(cache_from "${ref%:*}@$pushed")
build b "$CONTEXTS/chain" "${from_digest[@]}" --output type=local,dest=pulled ||
  fail "the build failed that imports a cache by its digest"
assert_cached 0 $STEPS
mv lost "$file"
mv "plain/sha256/$top" lost
builder_prune b
if build b "$CONTEXTS/chain" "${from_plain[@]}" --output type=local,dest=pulled >plain-build.log; then
  fail "a build succeeds that is served a layer which is gone: $(steps_cached) of $(steps_total) CACHED"
fi
grep -q 'not found' plain-build.log || fail "it failed for another reason: $(cat plain-build.log)"
stop_process plain

# With everything back, everything is CACHED again.
[ "$STORE_KIND" = fs ] || larder_restart
builder_prune b
build b "$CONTEXTS/chain" "${from[@]}"
assert_all_cached $STEPS
