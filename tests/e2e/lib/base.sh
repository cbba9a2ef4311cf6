# shellcheck shell=bash
# The base image of all test builds: busybox alone, for three platforms. The 386
# one holds the same static amd64 program, which runs on an amd64 kernel; what
# counts is that BuildKit takes it for another platform. arm64 cannot run at
# all, so builds for it only copy.

# BASE is the reference to build from, for the server pushed to last.
BASE=

# Made once a run; the bytes are the same on every machine with the same busybox.
base_rootfs() {
  local root=$RUN_DIR/base tar=$RUN_DIR/base.tar applet
  if [ ! -e "$tar" ]; then
    mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp}
    chmod 1777 "$root/tmp"
    cp "$(dpkg -L busybox-static | grep '/bin/busybox$' | head -1)" "$root/bin/busybox"
    for applet in $("$root/bin/busybox" --list); do
      [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$tar.new" .
    mv "$tar.new" "$tar"
    rm -rf "$root"
  fi
  echo "$tar"
}

base_push() { # [host:port]
  local repo=${1:-$LARDER}/library/base
  base_push_to "$repo" >"$WORK/base-push.log" 2>&1 || {
    cat "$WORK/base-push.log"
    fail "the base image could not be pushed"
  }
  BASE=$repo
}

base_push_to() { # repository
  local repo=$1 tar platform
  tar=$(base_rootfs)
  for platform in amd64 386 arm64; do
    crane append --oci-empty-base -f "$tar" -t "$repo:$platform" &&
      crane mutate --set-platform "linux/$platform" --env PATH=/bin -t "$repo:$platform" "$repo:$platform" ||
      return 1
  done
  crane index append -m "$repo:amd64" -m "$repo:386" -m "$repo:arm64" -t "$repo:latest"
}
