# shellcheck shell=bash
# Four builders push and import without a pause while every server collects every
# two seconds, with a grace and a lease that are hardly longer than a build, and a
# quota of less than half of what the builders make. No build fails; the store ends
# below its quota; and whatever was not evicted is CACHED, for each build.

readonly BYTES=4000000 # that each build makes, and that nothing compresses
builders=(a b c d)

mkdir load
cat >load/Dockerfile <<'DOCKERFILE'
ARG BASE
FROM ${BASE}
RUN echo shared > /shared
ARG MADE
RUN echo ${MADE} > /made && head -c 4000000 /dev/urandom > /bytes
DOCKERFILE

# How long a build takes here when all of them build.
INSTANCE=before larder_start
base_push
for name in "${builders[@]}"; do builder_start "$name"; done
workers=()
began=$SECONDS
for name in "${builders[@]}"; do
  mapfile -t to < <(cache_to "$LARDER/cache/app:$name" mode=max)
  build "$name" load "${to[@]}" --opt build-arg:MADE=before &
  workers+=($!)
done
for worker in "${workers[@]}"; do wait "$worker" || fail "a builder failed"; done
lasted=$((SECONDS - began + 1))
for name in "${builders[@]}"; do builder_prune "$name"; done
INSTANCE=before larder_stop

# The full form takes five minutes. In the short one all times are shorter, and on a
# slow machine they are longer.
grace=${FULL:+60} grace=${grace:-20}
[ "$grace" -ge $((4 * lasted)) ] || grace=$((4 * lasted))
every=${FULL:+$((grace / 3))} every=${every:-$((grace * 3 / 5))} # seconds between the builds of one builder
rounds=${FULL:+15} rounds=${rounds:-9}
note "a build takes $lasted s at most; grace and lease are $grace s"

produced=$((${#builders[@]} * rounds * BYTES))
quota=$((produced * 45 / 100))
# Between where eviction ends and the quota is room for what four builds send at once.
settings=(
  '[collect]' 'interval = "2s"' "grace = \"${grace}s\"" "lease = \"${grace}s\"" 'short_spans = true'
  '[[tenants]]' 'name = "library"' 'repositories = ["library/**"]'
  '[[tenants]]' 'name = "default"' "quota = { max = \"${quota}B\", high = \"$((quota * 3 / 4))B\", low = \"$((quota * 6 / 10))B\" }"
)
if [ "$STORE_KIND" = s3 ]; then
  for replica in one two; do INSTANCE=$replica STORE=shared larder_start "${settings[@]}"; done
  servers=("$(INSTANCE=one larder_address)" "$(INSTANCE=two larder_address)")
  store=$(STORE=shared larder_store)
else
  larder_own_disk 2g
  larder_start "${settings[@]}"
  servers=("$LARDER" "$LARDER")
  store=$(larder_store)
fi
base_push "${servers[0]}"
stored() { find "$store/t/default/blobs" -type f -printf '%s\n' 2>/dev/null | awk '{ sum += $1 } END { print sum + 0 }'; }

# Layers that a tag serves now, none before its first push.
layers_of() { { manifest_of "$1" 2>/dev/null || echo '{"layers":[]}'; } | jq -r '.layers[].digest' | sort; }

# A build must be shorter than grace and lease: they promise no more.
timed_build() { # builder options...
  local name=$1 began=$SECONDS
  shift
  build "$name" load "$@" || fail "a build of $name failed"
  [ $((SECONDS - began)) -lt "$grace" ] || fail "a build of $name took $((SECONDS - began)) s, not less than $grace s"
  echo $((SECONDS - began)) >>"durations-$name"
}

# Each build pushes through one server, and is imported through the other one by a builder that knows nothing.
work() { # builder
  local name=$1 round next=$SECONDS here there ref tag=cache/app:$1
  for ((round = 1; round <= rounds; round++)); do
    [ $SECONDS -ge $next ] || sleep $((next - SECONDS))
    next=$((SECONDS + every))
    here=${servers[round % 2]} there=${servers[(round + 1) % 2]}
    ref=$here/$tag
    mapfile -t to < <(cache_to "$ref" mode=max)
    mapfile -t from < <(cache_from "$ref")
    layers_of "$ref" >"before-$name"
    timed_build "$name" "${to[@]}" "${from[@]}" --opt "build-arg:MADE=$name-$round"
    layers_of "$ref" >"after-$name"
    comm -13 "before-$name" "after-$name" >"layers-$name-$round"
    builder_prune "$name"
    mapfile -t from < <(cache_from "$there/$tag")
    timed_build "$name" "${from[@]}" --opt "build-arg:MADE=$name-$round"
    assert_all_cached 2
    builder_prune "$name"
  done
}

workers=()
began=$SECONDS
for name in "${builders[@]}"; do
  work "$name" &
  workers+=($!)
done
for worker in "${workers[@]}"; do wait "$worker" || fail "a builder failed"; done
lasted=$((SECONDS - began))
longest=$(sort -n durations-* | tail -1)
# What it takes for the promise to be kept at all, and for the test to be one.
[ $((2 * grace * produced / lasted)) -le $quota ] || fail "too much was made in $grace s for this quota"
[ $quota -lt $((produced / 2)) ] || fail "the quota is not below half of what was made"
note "$((2 * rounds * ${#builders[@]})) builds in $lasted s, none failed, the longest took $longest s"

settled() { [ "$(stored)" -le $quota ]; }
eventually $((3 * grace)) settled || fail "$(stored) bytes are stored, $quota are allowed"
note "$((produced / 1000000)) MB were made, $(($(stored) / 1000000)) MB are stored, $((quota / 1000000)) MB are allowed"

# What is served now, down to the last build that is whole.
kept=0 evicted=0
for name in "${builders[@]}"; do
  ref=${servers[0]}/cache/app:$name
  layers_of "$ref" >"served-$name"
  mapfile -t from < <(cache_from "$ref")
  for ((round = 1; round <= rounds; round++)); do
    [ -s "layers-$name-$round" ] || fail "build $round of $name added no layer"
    if [ -n "$(comm -23 "layers-$name-$round" "served-$name")" ]; then
      evicted=$((evicted + 1))
      continue
    fi
    kept=$((kept + 1))
    build "$name" load "${from[@]}" --opt "build-arg:MADE=$name-$round" || fail "import of build $round of $name failed"
    assert_all_cached 2
    builder_prune "$name"
  done
done
note "$kept builds are all CACHED, $evicted were evicted"
[ $evicted -gt 0 ] && [ $kept -gt 0 ] || fail "nothing was evicted, or everything"
