# shellcheck shell=bash
# stores: fs
# buildkits: all with --full
# Docker itself: the two lines that the server prints, pasted, build in a container
# of Docker's Engine, and once more on a fresh builder, where every step is CACHED.
# So is every step of a bake. --full has the Engine itself push and pull as well.

larder_start
base_push
builder_image_push
docker_start --registry-mirror "http://$LARDER"
note "Docker $(docker version --format '{{.Server.Version}}'), buildx $(buildx version | cut -d' ' -f2), BuildKit $(buildkitd --version | cut -d' ' -f3)"

# A person's server prints its lines; one that logs JSON prints nothing.
larder_stop
sed -i 's/^format = "json"/format = "text"/' "$(larder_dir)/larder.toml"
larder_launch || fail "the server does not start again"
create=$(sed -n 's/^ *\(docker buildx create .*network=host.*\)/\1/p' "$(larder_log)")
paste=$(sed -n '/^A builder on another/q; s/^ *\(docker buildx build .*\)/\1/p' "$(larder_log)")
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

on_a_fresh_builder() { # assertion
  bash -c "$create"
  pasted project "$paste"
  $1 2
  assert_eq "$(docker inspect --format '{{.State.Running}}' buildx_buildkit_larder0)" true "the builder is a container of the Engine"
  pasted diamond "docker buildx bake x y"
  $1 12
  docker buildx rm larder
}
none_cached() { assert_cached 0 "$1"; }

on_a_fresh_builder none_cached
on_a_fresh_builder assert_all_cached

if [ -n "$FULL" ]; then
  repo=$LARDER/clients/docker
  for platform in amd64 386; do
    docker pull --quiet --platform "linux/$platform" "$BASE:$platform"
    docker tag "$BASE:$platform" "$repo:$platform"
    docker push --quiet "$repo:$platform"
    crane validate --remote "$repo:$platform"
    docker rmi "$BASE:$platform" "$repo:$platform" >/dev/null
    docker pull --quiet --platform "linux/$platform" "$repo:$platform"
    assert_eq "$(docker image inspect --format '{{index .RepoDigests 0}}' "$repo:$platform")" \
      "$repo@$(crane digest "$repo:$platform")" "digest of what Docker pulled"
    assert_eq "$(docker run --rm --network none "$repo:$platform" /bin/busybox echo "runs $platform")" \
      "runs $platform" "what the image says"
  done
  docker manifest create --insecure "$repo:all" "$repo:amd64" "$repo:386"
  docker manifest push --insecure "$repo:all"
  assert_eq "$(docker manifest inspect --insecure "$repo:all" | jq -r '[.manifests[].platform.architecture] | sort | join(" ")')" \
    "386 amd64" "platforms of the list that Docker made"
  crane validate --remote "$repo:all"
  note "docker push, pull, run and manifest"
fi
docker_stop
