# shellcheck shell=bash
# stores: fs
# form: full
# Our own image, built by BuildKit with Larder as its cache, on a Debian with the
# toolchain of this machine. A fresh builder compiles nothing; a changed source
# does not compile the dependencies again. The image is small, holds no shell,
# and runs as nobody on a root that cannot be written.

readonly REPO=$E2E/../..
larder_start
toolchain_push

image_build() { # builder source [buildctl options]
  local name=$1 source=$2
  shift 2
  BUILD_LOG=$(new_build_log "$name")
  bctl "$name" build --frontend dockerfile.v0 --local context="$source" --local dockerfile="$REPO/deploy" \
    --opt build-arg:BUILD_BASE="$TOOLCHAIN" --opt build-arg:PROFILE="${PROFILE:-dist}" --progress rawjson \
    --import-cache "type=registry,ref=$LARDER/larder:cache" "$@" 2>"$BUILD_LOG" || {
    build_errors
    fail "the image could not be built"
  }
}

started=$SECONDS
builder_start a
image_build a "$REPO" --export-cache "type=registry,ref=$LARDER/larder:cache,mode=max" \
  --output "type=image,name=$LARDER/larder:built,push=true"
note "compiled, pushed and cached in $((SECONDS - started)) s"
builder_stop a

started=$SECONDS
builder_start b
image_build b "$REPO" --output "type=image,name=$LARDER/larder:again,push=true"
assert_all_cached 7
note "a fresh builder: 7 of 7 steps CACHED, image pushed, $((SECONDS - started)) s"
assert_eq "$(digest_of "$LARDER/larder:again")" "$(digest_of "$LARDER/larder:built")" "digest of the image built from the cache"

# A source that does not compile: it fails there, and what is before comes from
# the cache.
mkdir changed
cp -r "$REPO"/{Cargo.toml,Cargo.lock,src} changed/
echo 'compile_error!("changed");' >>changed/src/lib.rs
builder_prune b
if (image_build b changed) >changed.log 2>&1; then fail "what does not compile was built"; fi
logs=("$WORK"/builds/*-b-*.json)
BUILD_LOG=$(ls -t "${logs[@]}" | sed -n 1p)
jq -rRj 'fromjson? | .logs[]? | .data | @base64d' "$BUILD_LOG" >changed.log
grep -q '^error: changed' changed.log || fail "failed for another reason: $(tail changed.log)"
if grep -q 'Compiling' changed.log && grep 'Compiling' changed.log | grep -v 'Compiling larder ' >/dev/null; then fail "dependencies were compiled again"; fi
note "a changed source: its step runs, $(steps_cached) others are CACHED, no dependency is compiled"
builder_stop b

packed=$(manifest_of "$LARDER/larder:built" | jq '[.layers[].size] | add')
note "size of the image: $((packed / 1000)) kB packed"
assert_at_most "$packed" 30000000 "size of the image"

skopeo copy --quiet --src-tls-verify=false "docker://$LARDER/larder:built" "oci:$WORK/image:latest"
rootfs=$WORK/bundle/rootfs
mkdir -p "$rootfs"
jq -r '.manifests[0].digest' image/index.json | cut -d: -f2 >manifest
jq -r '.config.digest' "image/blobs/sha256/$(cat manifest)" | cut -d: -f2 >config
jq -r '.layers[].digest' "image/blobs/sha256/$(cat manifest)" | cut -d: -f2 |
  while read -r layer; do tar -xf "image/blobs/sha256/$layer" -C "$rootfs"; done
bytes=$(find "$rootfs" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
note "unpacked: $((bytes / 1000)) kB in $(find "$rootfs" -type f | wc -l) files"
assert_at_most "$bytes" 30000000 "size of the unpacked image"
file "$rootfs/usr/bin/larder" | grep -E 'statically linked|static-pie' >/dev/null || fail "not static: $(file "$rootfs/usr/bin/larder")"
assert_eq "$(jq -r .config.User "image/blobs/sha256/$(cat config)")" 65532:65532 "user of the image"

# As a container engine would: user, entry point and folder of the image, a root
# that cannot be written, no capabilities, a volume for the store.
port=$(free_port)
mkdir volume
chown 65532:65532 volume
cd bundle
runc spec
jq --slurpfile image "../image/blobs/sha256/$(cat ../config)" --arg port "$port" --arg volume "$WORK/volume" '
  $image[0].config as $c
  | .root.readonly = true
  | .process |= (.terminal = false | .args = $c.Entrypoint + $c.Cmd | .cwd = $c.WorkingDir | .noNewPrivileges = true
      | .user = {uid: 65532, gid: 65532}
      | .env = ($c.Env | map(select(startswith("LARDER_SERVER_LISTEN") | not)))
             + ["LARDER_SERVER_LISTEN=[\"127.0.0.1:" + $port + "\"]"]
      | .capabilities = {})
  | .linux.namespaces |= map(select(.type != "network"))
  | .linux.resources = {}
  | .mounts += [{destination: "/var/lib/larder-data", type: "bind", source: $volume, options: ["rbind", "rw"]}]
' config.json >config.new && mv config.new config.json
spawn container ../container.log runc --root "$WORK/runc" run "larder-$port"
eventually 60 curl -fsS -m 5 "http://127.0.0.1:$port/readyz" || {
  cat ../container.log
  fail "the image did not get ready"
}
cd ..
echo kept >blob
put_blob "127.0.0.1:$port/app" blob
assert_eq "$(find volume -user 65532 -path '*/blobs/*' -type f | wc -l)" 1 "blobs of the container in its volume, owned by nobody"
assert_eq "$(ps -o user:12= -p "$(runc --root "$WORK/runc" state "larder-$port" | jq .pid)" | tr -d ' ')" 65532 "who runs the server"
stop_process container
note "runs as 65532 on a read-only root without capabilities"
