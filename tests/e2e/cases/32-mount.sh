# shellcheck shell=bash
# Import the cache of one repository, push the image to another one of the same
# server: not a byte of a layer is moved, up or down. The layers are mounted
# there, or the server says at once that it has them.

larder_start
base_push
builder_start a
mapfile -t to < <(cache_to "$LARDER/team/cache:latest" mode=max)
build a "$CONTEXTS/app" "${to[@]}"
builder_stop a

# Mounts are tried between references of one host, so all go through the proxy.
proxy_start "$LARDER"
BASE=$PROXY/library/base
mapfile -t from < <(cache_from "$PROXY/team/cache:latest")
builder_start b
build b "$CONTEXTS/app" "${from[@]}" --output "type=image,name=$PROXY/product/app:1,push=true,unpack=false"
assert_all_cached 2

mapfile -t layers < <(manifest_of "$LARDER/product/app:1" | jq -r '.layers[].digest')
assert_eq "${#layers[@]}" 3 "layers of the image"
present=$(proxy_count '.method == "HEAD" and (.path | test("/product/app/blobs/")) and .status == 200')
mounted=$(proxy_count '.method == "POST" and (.query | test("mount=")) and .status == 201')
assert_eq $((present + mounted)) ${#layers[@]} "layers found or mounted"
# Two small bodies remain: the config of the image and its manifest.
sent=$(proxy_sum '.method == "PUT" or .method == "PATCH" or .method == "POST"' bytes_in)
note "$present layers present, $mounted mounted, $sent bytes uploaded in all"
for digest in "${layers[@]}"; do
  about="(.path + .query | test(\"${digest#*:}\"))"
  assert_eq "$(proxy_sum "$about" bytes_in)" 0 "bytes uploaded of layer $digest"
  assert_eq "$(proxy_sum "$about" bytes_out)" 0 "bytes downloaded of layer $digest"
done
[ "$sent" -lt 20000 ] || fail "$sent bytes were uploaded"

# And the image is whole.
crane pull "$LARDER/product/app:1" app.tar
crane validate --remote "$LARDER/product/app:1"
