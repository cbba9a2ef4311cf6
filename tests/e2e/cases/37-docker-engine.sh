# shellcheck shell=bash
# stores: fs
# buildkits: all with --full
# Docker itself: the two lines that the server prints, pasted, build in a container
# of Docker's Engine, and once more on a fresh builder, where every step is CACHED.
# So is every step of a bake.

larder_start
base_push
builder_image_push
docker_start --bridge none --registry-mirror "http://$LARDER"
note "Docker $(docker version --format '{{.Server.Version}}'), $(buildx version | cut -d' ' -f2), $(buildkitd --version | cut -d' ' -f3)"

create=$(sed -n 's/^ *\(docker buildx create .*network=host.*\)/\1/p' "$(larder_log)")
paste=$(sed -n 's/^ *\(docker buildx build .*\)/\1/p' "$(larder_log)")
[ -n "$create" ] && [ -n "$paste" ] || fail "no lines to paste in: $(head -20 "$(larder_log)")"

cp -r "$CONTEXTS/diamond" .
mkdir project
cat >project/Dockerfile <<DOCKERFILE
FROM $BASE AS build
RUN cat /proc/sys/kernel/random/uuid > /built
FROM $BASE
COPY --from=build /built /built
DOCKERFILE
export REGISTRY=$LARDER BASE

pasted() { # directory line
  BUILD_LOG=$(new_build_log pasted)
  (cd "$1" && BUILDKIT_PROGRESS=rawjson bash -c "$2") 2>"$BUILD_LOG" || {
    build_errors
    fail "failed: $2"
  }
}

builder() { # what comes of it is in the steps of the two builds
  bash -c "$create"
  pasted project "$paste"
  $1 2
  pasted diamond "docker buildx bake x y"
  $1 12
}
none_cached() { assert_cached 0 "$1"; }

builder none_cached
docker buildx rm larder
builder assert_all_cached
docker_stop
