# shellcheck shell=bash
# A connection that breaks in the middle of a cached layer costs a moment, not
# the build: BuildKit asks for the rest with Range, and the bytes are right.

larder_start
base_push
builder_start a
mapfile -t to < <(cache_to "$LARDER/cache/app:latest" mode=max)
build a "$CONTEXTS/app" "${to[@]}" --output type=local,dest=made
builder_stop a

# 8 MiB of random bytes do not compress: only that layer is as big as the cut.
proxy_start "$LARDER" -cut-nth 1 -cut-after 3000000 -cut-min 8000000
mapfile -t from < <(cache_from "$PROXY/cache/app:latest")
builder_start b
build b "$CONTEXTS/app" "${from[@]}" --output type=local,dest=pulled
assert_all_cached 2

assert_eq "$(proxy_count .cut)" 1 "downloads cut"
resumed=$(jq -r 'select(.range != "") | "\(.range) \(.status) \(.bytes_out)"' "$PROXY_LOG")
note "resumed with: $resumed"
[[ $resumed == "bytes="[1-9]*"- 206 "* ]] || fail "no Range request was answered with 206: $resumed"
diff -r --no-dereference made pulled >/dev/null || fail "the resumed layer has other content"
