# shellcheck shell=bash
# buildkits: all with --full
# What has not changed is not pushed again: with one target on a reference,
# BuildKit finds its own digest there and sends no manifest; with two targets,
# pushing them again and again adds nothing to the store.

larder_start
base_push
proxy_start "$LARDER"
BASE=$PROXY/library/base
builder_start a

ref=$PROXY/cache/one:latest
mapfile -t to < <(cache_to "$ref" mode=max)
build a "$CONTEXTS/chain" "${to[@]}"
proxy_settle
pushed=$(jq -r 'select(.method == "PUT" and (.path | test("/cache/one/manifests/"))).digest' "$PROXY_LOG")
assert_ne "$pushed" "" "digest of the push"
assert_eq "$(digest_of "$ref")" "$pushed" "digest of the tag after one push"
assert_eq "sha256:$(manifest_of "$ref" | sha256sum | cut -d' ' -f1)" "$pushed" "bytes of the tag after one push"
proxy_forget
build a "$CONTEXTS/chain" "${to[@]}"
assert_eq "$(proxy_count '.method == "PUT"')" 0 "PUTs of an unchanged build"

ref=$PROXY/cache/two:latest
mapfile -t to < <(cache_to "$ref" mode=max)
push_both() {
  build a "$CONTEXTS/diamond" "${to[@]}" --opt target=t1
  build a "$CONTEXTS/diamond" "${to[@]}" --opt target=t2
}
records() { find "$(larder_store)/t/default/repos/cache/two/!/pushes/latest" -type f | wc -l; }
# The first export of a builder may hold a record that later ones leave out.
push_both
push_both
before=$(records)
[ "$before" -ge 2 ] || fail "$before push records of two targets"
for ((n = 1; n <= 20; n++)); do push_both; done
assert_eq "$(records)" "$before" "push records after 20 unchanged pushes"
