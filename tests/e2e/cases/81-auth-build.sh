# shellcheck shell=bash
# buildkits: all with --full
# Real builds with the credentials of docker's configuration: who may push
# exports its cache, who may only pull imports it, and who may not push reads in
# the build's own output why.

new_token() { # name -> sets TOKEN and HASH
  local shown
  shown=$("$LARDER_BIN" token new "$1")
  TOKEN=$(grep -o 'larder_[A-Za-z0-9_-]*' <<<"$shown")
  HASH=$(grep -o 'sha256:[0-9a-f]*' <<<"$shown")
}

new_token writer
writer=$TOKEN writer_hash=$HASH
new_token reader
reader=$TOKEN reader_hash=$HASH
larder_start '[[tokens]]' 'name = "writer"' "hash = \"$writer_hash\"" \
  '[[tokens]]' 'name = "reader"' "hash = \"$reader_hash\"" \
  '[[rules]]' 'identity = "token:writer"' 'may = ["pull", "push"]' \
  '[[rules]]' 'identity = "token:reader"' 'may = ["pull"]'
login any "$writer"
base_push
ref=$LARDER/cache/chain:latest
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")

builder_start a
build a "$CONTEXTS/chain" "${to[@]}" --output type=local,dest=made
builder_stop a

# A builder of its own: BuildKit shares pull tokens between the sessions of one.
login any "$reader"
builder_start b
build b "$CONTEXTS/chain" "${from[@]}" --output type=local,dest=pulled
assert_all_cached 4
diff -r --no-dereference made pulled >/dev/null || fail "content differs"
# Built anew, so that there is something to push: what is there is only looked at.
if build b "$CONTEXTS/chain" --no-cache "${to[@]}" >refused 2>&1; then fail "a reader could push"; fi
cat refused
grep -q 'token:reader may not push to cache/chain' "$BUILD_LOG" refused || {
  tail -5 "$BUILD_LOG"
  fail "the build does not say why it may not push"
}
builder_stop b

login any larder_wrong
builder_start c
if build c "$CONTEXTS/chain" "${to[@]}" >wrong 2>&1; then fail "a wrong token was taken"; fi
builder_stop c
not grep -qF -e "$writer" -e "$reader" "$(larder_log)" || fail "a token is in the log"
jq -cR 'fromjson? | select(.target == "larder::audit") | .who // .reason' "$(larder_log)" | sort | uniq -c
