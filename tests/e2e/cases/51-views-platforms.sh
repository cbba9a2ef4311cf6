# shellcheck shell=bash
# buildkits: all with --full
# Platforms built on different machines push to one reference and do not
# overwrite each other: all of them are CACHED afterwards, alone and together.

larder_start
base_push
ref=$LARDER/cache/platforms:latest
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")

builder_start a
build a "$CONTEXTS/chain" "${to[@]}" --opt platform=linux/amd64
builder_stop a
builder_start b
build b "$CONTEXTS/chain" "${to[@]}" --opt platform=linux/386
builder_stop b

builder_start c
for platform in linux/amd64 linux/386; do
  builder_prune c
  build c "$CONTEXTS/chain" "${from[@]}" --opt platform=$platform
  assert_all_cached 4
done
builder_prune c
build c "$CONTEXTS/chain" "${from[@]}" --opt platform=linux/amd64,linux/386 --output type=oci,dest=both.tar
assert_all_cached 8
