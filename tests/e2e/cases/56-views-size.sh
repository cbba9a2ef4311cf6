# shellcheck shell=bash
# buildkits: all with --full
# BuildKit silently ignores a cache manifest or config above 1 MiB. Many pushes
# that are too much together, and one push that is too much by itself, are
# served below that, and the newest target is CACHED.

larder_start '[[repositories]]' 'pattern = "plain/**"' 'views = false'
base_push
readonly LIMIT=$((1 << 20))
builder_start a
builder_start b

# A real cache with more records in it: other targets, of a hundred steps each,
# that stand on the same layers. Nobody can tell them from real ones.
widen() { # config seed targets
  jq -c --argjson seed "$2" --argjson targets "$3" '
    def digest: "sha256:" + (("0" * 64) + tostring)[-64:];
    (.records | length) as $have
    | .layers as $layers
    | .records += [range($targets) as $t | range(100) as $i
        | ($have + $t * 100 + $i) as $self
        | {digest: (($seed * 1000 + $t) * 1000 + $i + 1 | digest)}
        + if $i == 0 then {} else {
            inputs: [[{link: ($self - 1)}]],
            layers: [{layer: ($i % ($layers | length)), createdAt: "2026-01-02T03:04:05.123456789Z"}]} end]' "$1" | tr -d '\n'
}

push_wide() { # ref target seed targets
  # A tag of the same repository, so that the layers are found there.
  local real=${1%:*}:real-$2
  mapfile -t to < <(cache_to "$real" mode=max)
  build a "$CONTEXTS/diamond" "${to[@]}" --opt target="$2"
  manifest_of "$real" >real.mf
  config_of "$real" >real.cfg
  widen real.cfg "$3" "$4" >wide.cfg
  put_cache "$1" real.mf wide.cfg
}

sizes() { # ref -> "manifest config"
  echo "$(manifest_of "$1" | wc -c) $(config_of "$1" | wc -c)"
}

import() { # ref target what
  mapfile -t from < <(cache_from "$1")
  builder_prune b
  build b "$CONTEXTS/diamond" "${from[@]}" --opt target="$2"
  note "$3: manifest and config of $(sizes "$1") bytes, $(steps_cached) of $(steps_total) CACHED"
}

# Each of these is below the limit, the six together far above it.
ref=$LARDER/cache/wide:together
for n in 1 2 3 4 5 6; do
  push_wide "$ref" t$n $n 20
  [ "$(wc -c <wide.cfg)" -lt $LIMIT ] || fail "one push alone is above the limit"
done
read -r manifest config < <(sizes "$ref")
[ "$manifest" -lt $LIMIT ] && [ "$config" -lt $LIMIT ] || fail "served with $manifest and $config bytes"
import "$ref" t6 "many pushes"
assert_all_cached 6

# One push beyond the limit: 6,000 records.
ref=$LARDER/cache/wide:alone
push_wide "$ref" t1 9 60
size=$(wc -c <wide.cfg)
[ "$size" -gt $LIMIT ] || fail "the push has only $size bytes"
read -r manifest config < <(sizes "$ref")
[ "$manifest" -lt $LIMIT ] && [ "$config" -lt $LIMIT ] || fail "served with $manifest and $config bytes"
import "$ref" t1 "one push of $size bytes"
assert_ne "$(steps_cached)" 0 "CACHED steps of a trimmed push"

# What a server without views makes of it.
push_wide "$LARDER/plain/wide:latest" t1 9 60
import "$LARDER/plain/wide:latest" t1 "the same push on a plain tag"
assert_eq "$(steps_cached)" 0 "CACHED steps from a manifest above the limit"

# The same with a build that BuildKit itself exported: 140 stages of 20 files.
if [ -n "$FULL" ]; then
  mkdir -p huge
  {
    echo "ARG BASE"
    for ((stage = 1; stage <= 140; stage++)); do
      echo "FROM \${BASE} AS s$stage"
      for ((file = 1; file <= 20; file++)); do
        echo "$stage/$file" >"huge/$stage-$file"
        echo "COPY $stage-$file /"
      done
    done
    echo "FROM scratch"
    for ((stage = 1; stage <= 140; stage++)); do echo "COPY --from=s$stage /$stage-20 /"; done
  } >huge/Dockerfile
  ref=$LARDER/cache/huge:latest
  mapfile -t to < <(cache_to "$ref" mode=max)
  mapfile -t from < <(cache_from "$ref")
  build a huge "${to[@]}"
  builder_prune b
  build b huge "${from[@]}"
  note "a build of $(steps_total) steps: manifest and config of $(sizes "$ref") bytes, $(steps_cached) CACHED"
  assert_ne "$(steps_cached)" 0 "CACHED steps of a huge build"
fi
