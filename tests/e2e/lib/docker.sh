# shellcheck shell=bash
# Docker itself: an Engine of the case's own, as root, in the case's directory. It
# leaves the machine's network and packet filter alone, and starts containers by
# lib/oci-runtime.

docker_dir() { echo "$WORK/engine"; }

# What an Engine is started by: see docker_isolated.
DOCKER_WITHIN=()

# Starts the Engine, and makes `docker` and `docker buildx` speak with it.
docker_start() { # [dockerd options]
  local dir
  dir=$(docker_dir)
  mkdir -p "$dir" "$DOCKER_CONFIG/cli-plugins"
  ln -sf "$(command -v buildx)" "$DOCKER_CONFIG/cli-plugins/docker-buildx"
  PATH=$DOCKER_BIN:$PATH
  export DOCKER_HOST=unix://$dir/sock BUILDX_CONFIG=$WORK/buildx
  unset BUILDX_BUILDER
  spawn docker "$dir/log" "${DOCKER_WITHIN[@]}" dockerd --config-file "" --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
    --host "$DOCKER_HOST" --exec-opt native.cgroupdriver=cgroupfs --bridge none --iptables=false --ip-masq=false \
    --init-path "$DOCKER_BIN/tini-static" --add-runtime "held=$E2E/lib/oci-runtime" --default-runtime held "$@"
  eventually 60 docker_ready_or_dead && docker_ready || {
    tail -20 "$dir/log"
    fail "Docker's Engine did not get ready"
  }
}

# The same with a network of the Engine's own, in which all ports are free and its
# bridges are seen by nobody else. What is to reach them is started by docker_inside.
docker_isolated() { # [dockerd options]
  # shellcheck disable=SC2016  # of the inner shell
  DOCKER_WITHIN=(unshare --net sh -c 'ip link set lo up && exec "$0" "$@"')
  docker_start "$@"
}
docker_inside() { nsenter --net="/proc/$(pid_of docker)/ns/net" "$@"; }

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

# A folder for an image: programs, each with the libraries that it is linked with
# and their loader. Its name in the image may differ: "runc:buildkit-runc".
image_root() { # directory program[:name]...
  local root=$1 program path library
  shift
  mkdir -p "$root/usr/bin"
  for program in "$@"; do
    path=$(command -v "${program%:*}")
    cp "$path" "$root/usr/bin/$(basename "${program##*:}")"
    # What is linked statically has none.
    for library in $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*'); do
      install -D "$library" "$root$library"
    done
  done
}

# The image of a builder, with the BuildKit of this case, as `docker-container`
# pulls it when nobody says which: the server stands in for the public registry.
builder_image_push() {
  local root=$WORK/builder-image image=$LARDER/moby/buildkit:buildx-stable-1
  image_root "$root" buildkitd buildctl runc:buildkit-runc
  tar -C "$root" -cf "$root.tar" .
  crane append --oci-empty-base -f "$(base_rootfs)" -f "$root.tar" -t "$image" &&
    crane mutate --set-platform "linux/$(dpkg --print-architecture)" --entrypoint buildkitd --env PATH=/usr/bin:/bin -t "$image" "$image" ||
    fail "the image of the builder could not be pushed"
  rm -rf "$root" "$root.tar"
}
