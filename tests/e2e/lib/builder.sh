# shellcheck shell=bash
# BuildKit daemons, started fresh and stopped by the case that needs them.

builder_dir() { echo "$WORK/builders/$1"; }
builder_addr() { echo "unix://$(builder_dir "$1")/sock"; }

# More of a buildkitd.toml for the builders started from now on.
BUILDER_TOML=

builder_start() { # name
  local dir
  dir=$(builder_dir "$1")
  mkdir -p "$dir"
  # No garbage collection of its own: a cached step must be cached because of
  # the server, and an uncached one must not be explained by a full disk.
  cat >"$dir/buildkitd.toml" <<TOML
[worker.oci]
  enabled = true
  gc = false
[worker.containerd]
  enabled = false
$BUILDER_TOML
TOML
  spawn "builder-$1" "$dir/log" \
    buildkitd --config "$dir/buildkitd.toml" --root "$dir/root" --addr "$(builder_addr "$1")"
  eventually 120 bctl "$1" debug workers || {
    tail -20 "$dir/log"
    fail "builder $1 did not get ready"
  }
}

# The root holds a copy of every layer; only its log is worth keeping.
builder_stop() { # name
  stop_process "builder-$1"
  rm -rf "$(builder_dir "$1")/root"
}

# As good as a fresh builder, and quicker.
builder_prune() { # name
  bctl "$1" prune --all >/dev/null
}

bctl() { # name arguments...
  local addr
  addr=$(builder_addr "$1")
  shift
  buildctl --addr "$addr" "$@"
}

# Builds a Dockerfile; later options are buildctl's. The steps of the build are
# read from BUILD_LOG by lib/steps.sh. Returns buildctl's exit status.
BUILD_LOG=
build() { # name context [buildctl options]
  local name=$1 context=$2
  shift 2
  BUILD_LOG=$(new_build_log "$name")
  bctl "$name" build --frontend dockerfile.v0 \
    --local context="$context" --local dockerfile="$context" \
    --opt build-arg:BASE="$BASE" --progress rawjson "$@" 2>"$BUILD_LOG" || {
    local status=$?
    build_errors
    return $status
  }
}

new_build_log() { # name
  mkdir -p "$WORK/builds"
  mktemp "$WORK/builds/$(date +%H%M%S)-$1-XXXX.json"
}

# A builder as buildx sees it. Its name in buildx is that of the builder.
buildx_use() { # name
  export BUILDX_CONFIG=$WORK/buildx BUILDX_BUILDER=$1
  buildx inspect "$1" >/dev/null 2>&1 || buildx create --driver remote --name "$1" "$(builder_addr "$1")" >/dev/null
}

# Bakes from the current directory; the steps are read like those of `build`.
bake() { # name arguments...
  local name=$1
  shift
  buildx_use "$name"
  BUILD_LOG=$(new_build_log "bake-$name")
  buildx bake --progress rawjson "$@" 2>"$BUILD_LOG" || {
    local status=$?
    build_errors
    return $status
  }
}

# Shorthands of the options every cache case uses.
cache_to() { # ref [attributes]
  printf '%s\n' --export-cache "type=registry,ref=$1${2:+,$2}"
}
cache_from() { # ref
  printf '%s\n' --import-cache "type=registry,ref=$1"
}
