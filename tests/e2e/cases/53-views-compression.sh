# shellcheck shell=bash
# buildkits: all with --full
# The same build pushed once with gzip and once with zstd layers to one
# reference: everything is CACHED and can be pulled, whichever layers are named.

larder_start
base_push
ref=$LARDER/cache/mixed:latest
mapfile -t from < <(cache_from "$ref")
builder_start a
for compression in gzip zstd; do
  mapfile -t to < <(cache_to "$ref" mode=max,compression=$compression,force-compression=true)
  build a "$CONTEXTS/chain" "${to[@]}" --output type=local,dest=made
done
builder_start b
build b "$CONTEXTS/chain" "${from[@]}" --output type=local,dest=pulled
assert_all_cached 4
diff -r --no-dereference made pulled >/dev/null || fail "the mixed cache has other content"
