# shellcheck shell=bash
# buildkits: all
# Targets baked together may share one cache reference: none loses its cache to
# another, neither when they are imported one by one nor baked all at once.

larder_start
base_push
export REGISTRY=$LARDER BASE
cp -r "$CONTEXTS/diamond" "$CONTEXTS/mono" .

builder_start a
builder_start b

cd diamond
bake a
for target in x y z; do
  builder_prune b
  bake b "$target"
  assert_all_cached 6
done
rounds=${FULL:+20}
rounds=${rounds:-3}

# Bakes everything at once, several times, and counts the steps not CACHED.
misses_at_once() { # total bake-options...
  local total=$1 misses=0 round
  shift
  for ((round = 1; round <= rounds; round++)); do
    builder_prune b
    bake b "$@" --set '*.cache-to='
    assert_eq "$(steps_total)" "$total" "steps of the bake"
    misses=$((misses + total - $(steps_cached)))
  done
  MISSES=$misses
}

misses_at_once 18
note "three targets at once, $rounds times: $MISSES misses"
[ $MISSES = 0 ] || fail "$MISSES steps were not CACHED when baked at once"

# The monorepo with one reference for everything: services for two platforms, a
# matrix, and files for a third platform.
cd ../mono
shared=type=registry,ref=$LARDER/mono/cache:shared
bake a --set "*.cache-from=$shared" --set "*.cache-to=$shared,mode=max"
declare -A steps=([api]=10 [worker-fast]=10 [worker-slow]=10 [assets]=2)
for target in "${!steps[@]}"; do
  builder_prune b
  bake b "$target" --set "*.cache-from=$shared" --set '*.cache-to='
  assert_all_cached "${steps[$target]}"
done

# BuildKit itself misses some steps when targets that share stages are baked at
# once, also when each has a reference of its own. A shared one may not add to it.
# How many is a matter of luck: few rounds that say so are not the last word.
bake a
together=0 apart=0 series=0
until [ $series -gt 0 ] && [ $together -le $((2 * apart)) ] || [ $series = 5 ]; do
  misses_at_once 32 --set "*.cache-from=$shared"
  together=$((together + MISSES))
  misses_at_once 32
  apart=$((apart + MISSES))
  series=$((series + 1))
done
note "the monorepo at once, $((rounds * series)) times: $together misses with a shared reference, $apart with one each"
[ $together -le $((2 * apart)) ] || fail "a shared reference costs hits that one each has"
