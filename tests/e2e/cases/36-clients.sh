# shellcheck shell=bash
# The clients that people have: oras, regctl, skopeo, podman, buildah and
# `buildx imagetools` push, pull, copy, list and delete, and all of them see the
# same digests.

larder_start
base_push
repo=$LARDER/library/base
index=$(crane digest "$repo:latest")
amd64=$(crane digest "$repo:amd64")

# Images below the case's own directory; nothing of the machine's.
export TMPDIR=$WORK/tmp XDG_RUNTIME_DIR=$WORK/run REGISTRY_AUTH_FILE=$WORK/auth.json
mkdir -p "$TMPDIR" "$XDG_RUNTIME_DIR"
echo '{}' >auth.json
cat >policy.json <<JSON
{"default":[{"type":"insecureAcceptAnything"}]}
JSON
cat >registries.conf <<TOML
[[registry]]
location = "$LARDER"
insecure = true
TOML
export CONTAINERS_REGISTRIES_CONF=$WORK/registries.conf

same() { # reference digest who
  assert_eq "$(crane digest "$1")" "$2" "$3"
  crane validate --remote "$1"
}

# oras: artifacts, with what refers to them.
echo "a report" >report.txt
oras push --plain-http "$LARDER/clients/oras:1" --artifact-type application/vnd.test report.txt:text/plain
oras attach --plain-http --artifact-type application/vnd.test.note "$LARDER/clients/oras:1" report.txt:text/plain
[ "$(oras discover --plain-http --format json "$LARDER/clients/oras:1" | jq '[.referrers // .manifests | .[]] | length')" = 1 ] ||
  fail "oras does not find what refers to its artifact"
mkdir pulled
oras pull --plain-http -o pulled "$LARDER/clients/oras:1"
assert_file_eq report.txt pulled/report.txt "artifact pulled by oras"
oras cp --from-plain-http --to-plain-http "$repo:latest" "$LARDER/clients/oras-copy:1"
same "$LARDER/clients/oras-copy:1" "$index" "copy by oras"
oras tag --plain-http "$LARDER/clients/oras-copy:1" 2
assert_eq "$(oras repo tags --plain-http "$LARDER/clients/oras-copy" | xargs)" "1 2" "tags by oras"
# To a file: who is not read to the end has failed, and with it the pipe.
oras repo ls --plain-http "$LARDER" >listed
grep -qx clients/oras-copy listed || fail "oras does not list the repository"
oras manifest delete --plain-http --force "$LARDER/clients/oras:1"
crane manifest "$LARDER/clients/oras:1" >/dev/null 2>&1 && fail "deleted by oras, and still there"

# regctl: layouts, blobs and single tags.
regctl registry set --tls disabled "$LARDER"
regctl image copy "$repo:latest" "$LARDER/clients/regctl:1"
same "$LARDER/clients/regctl:1" "$index" "copy by regctl"
regctl image copy "$repo:latest" "ocidir://$WORK/regctl-layout:1"
regctl image copy "ocidir://$WORK/regctl-layout:1" "$LARDER/clients/regctl:2"
same "$LARDER/clients/regctl:2" "$index" "layout pushed by regctl"
assert_eq "$(regctl tag ls "$LARDER/clients/regctl" | xargs)" "1 2" "tags by regctl"
blob=$(head -c 3000000 /dev/urandom | tee blob | regctl blob put "$LARDER/clients/regctl")
regctl blob get "$LARDER/clients/regctl" "$blob" >blob.got
assert_file_eq blob blob.got "blob by regctl"
regctl blob delete "$LARDER/clients/regctl" "$blob"
regctl blob head "$LARDER/clients/regctl" "$blob" >/dev/null 2>&1 && fail "blob deleted by regctl, and still there"
regctl tag delete "$LARDER/clients/regctl:1"
assert_eq "$(regctl tag ls "$LARDER/clients/regctl" | xargs)" 2 "tags after a deletion by regctl"

# skopeo: all platforms, one platform, and back from a folder.
skopeo() { command skopeo --policy "$WORK/policy.json" --tmpdir "$TMPDIR" "$@"; }
plain=(--src-tls-verify=false --dest-tls-verify=false)
# Debian's skopeo writes an index anew when it has fields that it does not know; the images in it stay what they are.
skopeo copy --quiet --all "${plain[@]}" "docker://$repo:latest" "docker://$LARDER/clients/skopeo:1"
images() { crane manifest "$1" | jq -r '.manifests[].digest'; }
assert_eq "$(images "$LARDER/clients/skopeo:1")" "$(images "$repo:latest")" "images of the index copied by skopeo"
crane validate --remote "$LARDER/clients/skopeo:1"
skopeo copy --quiet --preserve-digests --src-tls-verify=false "docker://$repo:amd64" "oci:$WORK/skopeo-layout:1"
# In a repository of its own: to delete an image that an index names would break the index.
for tag in 1 2; do
  skopeo copy --quiet --preserve-digests --dest-tls-verify=false "oci:$WORK/skopeo-layout:1" "docker://$LARDER/clients/skopeo-one:$tag"
done
same "$LARDER/clients/skopeo-one:2" "$amd64" "layout pushed by skopeo"
assert_eq "$(skopeo inspect --tls-verify=false "docker://$LARDER/clients/skopeo-one:2" | jq -r .Digest)" "$amd64" "digest by skopeo"
assert_eq "$(skopeo list-tags --tls-verify=false "docker://$LARDER/clients/skopeo-one" | jq -r '.Tags | join(" ")')" "1 2" "tags by skopeo"
skopeo delete --tls-verify=false "docker://$LARDER/clients/skopeo-one:2"
crane manifest "$LARDER/clients/skopeo-one:2" >/dev/null 2>&1 && fail "deleted by skopeo, and still there"

# podman and buildah keep images in a store of their own: here one of the case's.
stored=(--root "$WORK/containers/root" --runroot "$WORK/r" --storage-driver vfs)
podman() { command podman "${stored[@]}" --cgroup-manager cgroupfs "$@"; }
buildah() { command buildah "${stored[@]}" "$@"; }
policy=(--signature-policy "$WORK/policy.json" --tls-verify=false)
podman pull --quiet "${policy[@]}" "$repo:amd64"
podman push --quiet "${policy[@]}" "$repo:amd64" "$LARDER/clients/podman:1"
crane validate --remote "$LARDER/clients/podman:1"
pushed=$(crane digest "$LARDER/clients/podman:1")
podman rmi "$repo:amd64" >/dev/null
podman pull --quiet "${policy[@]}" "$LARDER/clients/podman:1"
assert_eq "$(podman image inspect --format '{{.Digest}}' "$LARDER/clients/podman:1")" "$pushed" "digest by podman"
podman search --list-tags --tls-verify=false "$LARDER/clients/podman" >listed
grep -qE 'podman +1$' listed || fail "podman does not list the tag"

container=$(buildah from --quiet "${policy[@]}" "$repo:amd64")
echo hello >hello
buildah copy --quiet "$container" hello /hello >/dev/null
buildah commit --quiet --signature-policy "$WORK/policy.json" "$container" built >/dev/null
buildah push --quiet "${policy[@]}" built "$LARDER/clients/buildah:1"
crane export "$LARDER/clients/buildah:1" - | tar -xO hello 2>/dev/null | cmp - hello || fail "the image that buildah made lacks its file"
buildah rm "$container" >/dev/null
buildah pull --quiet "${policy[@]}" "$LARDER/clients/buildah:1" >/dev/null

# buildx: an index of several images, made in the registry.
buildx imagetools create --tag "$LARDER/clients/buildx:1" "$repo:amd64" "$repo:arm64" >buildx.log 2>&1 || fail "$(cat buildx.log)"
assert_eq "$(buildx imagetools inspect "$LARDER/clients/buildx:1" --format '{{len .Manifest.Manifests}}')" 2 "images of the index by buildx"
assert_eq "$(buildx imagetools inspect "$LARDER/clients/buildx:1" --format '{{.Manifest.Digest}}')" \
  "$(crane digest "$LARDER/clients/buildx:1")" "digest by buildx"
buildx imagetools create --tag "$LARDER/clients/buildx:2" "$repo:latest" >buildx.log 2>&1 || fail "$(cat buildx.log)"
same "$LARDER/clients/buildx:2" "$index" "copy by buildx"

note "oras $(oras version | awk '/^Version/ { print $2 }'), regctl $(regctl version --format '{{.VCSTag}}'), $(skopeo --version), $(podman --version), $(buildah --version | cut -d' ' -f1-3), buildx"
