# shellcheck shell=bash
# Docker itself: an Engine of the case's own, as root, in the case's directory. It
# has no network of its own unless a case gives it one, so that it leaves the
# machine's alone, and it runs what containers it can: see lib/oci-runtime.

docker_dir() { echo "$WORK/engine"; }

# Starts the Engine, and makes `docker` and `docker buildx` speak with it.
docker_start() { # [dockerd options]
  local dir
  dir=$(docker_dir)
  mkdir -p "$dir" "$DOCKER_CONFIG/cli-plugins"
  ln -sf "$(command -v buildx)" "$DOCKER_CONFIG/cli-plugins/docker-buildx"
  PATH=$DOCKER_BIN:$PATH
  export DOCKER_HOST=unix://$dir/sock BUILDX_CONFIG=$WORK/buildx
  unset BUILDX_BUILDER
  spawn docker "$dir/log" dockerd --config-file "" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
    --host "$DOCKER_HOST" --exec-opt native.cgroupdriver=cgroupfs --iptables=false --ip-masq=false \
    --init-path "$DOCKER_BIN/tini-static" --add-runtime "held=$E2E/lib/oci-runtime" --default-runtime held "$@"
  eventually 60 docker_ready_or_dead && docker_ready || {
    tail -20 "$dir/log"
    fail "Docker's Engine did not get ready"
  }
}

docker_ready() { docker version; }
docker_ready_or_dead() { not is_running docker || docker_ready; }

# The Engine and all that it made, the parents of its containers' control groups too.
docker_stop() {
  local containers
  mapfile -t containers < <(docker ps --all --quiet)
  [ ${#containers[@]} = 0 ] || docker rm --force --volumes "${containers[@]}" >/dev/null
  stop_process docker
  rmdir /sys/fs/cgroup/{,*/}docker{/buildx,} 2>/dev/null || true
  rm -rf "$(docker_dir)/data"
}

# The image of a builder, with the BuildKit of this case, as `docker-container`
# pulls it when nobody says which: the server stands in for the public registry.
readonly BUILDER_IMAGE=moby/buildkit:buildx-stable-1
builder_image_push() {
  local root=$WORK/builder-image library image=$LARDER/$BUILDER_IMAGE
  mkdir -p "$root/usr/bin"
  cp "$(command -v buildkitd)" "$(command -v buildctl)" "$root/usr/bin/"
  cp "$(command -v runc)" "$root/usr/bin/buildkit-runc"
  # What runc is linked with, and the loader.
  for library in $(ldd "$(command -v runc)" | grep -o '/[^ ]*'); do
    install -D "$library" "$root$library"
  done
  tar -C "$root" -cf "$root.tar" .
  crane append --oci-empty-base -f "$(base_rootfs)" -f "$root.tar" -t "$image" &&
    crane mutate --set-platform "linux/$(dpkg --print-architecture)" --entrypoint buildkitd --env PATH=/usr/bin:/bin -t "$image" "$image" ||
    fail "the image of the builder could not be pushed"
  rm -rf "$root" "$root.tar"
}
