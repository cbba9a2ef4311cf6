# shellcheck shell=bash
# buildkits: all with --full
# A busy target, pushed again and again with changing sources, does not push a
# quiet sibling out of the reference they share.

larder_start
base_push
pushes=${FULL:+200}
pushes=${pushes:-80}
ref=$LARDER/cache/busy:shared
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")

mkdir busy
cat >busy/Dockerfile <<'DOCKERFILE'
ARG BASE
FROM ${BASE} AS base
RUN echo common > /common
FROM base AS quiet
RUN echo quiet > /quiet
RUN echo still > /still
FROM base AS busy
COPY source.txt /source.txt
COPY source.txt /copy.txt
DOCKERFILE

builder_start a
echo 0 >busy/source.txt
build a busy "${to[@]}" --opt target=quiet
for ((n = 1; n <= pushes; n++)); do
  echo "$n" >busy/source.txt
  build a busy "${to[@]}" --opt target=busy
done

builder_start b
build b busy "${from[@]}" --opt target=quiet
assert_all_cached 3
builder_prune b
build b busy "${from[@]}" --opt target=busy
assert_all_cached 3
note "sibling and newest push still CACHED after $pushes pushes"
