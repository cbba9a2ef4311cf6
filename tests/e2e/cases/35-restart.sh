# shellcheck shell=bash
# Killed with no warning after a push, the server comes back with everything it
# had acknowledged. Asked to stop, it first finishes the uploads it has begun.

larder_start
base_push
builder_start a
mapfile -t to < <(cache_to "$LARDER/cache/chain:latest" mode=max)
mapfile -t from < <(cache_from "$LARDER/cache/chain:latest")
build a "$CONTEXTS/chain" "${to[@]}" --output type=local,dest=made
larder_kill9
builder_stop a

larder_launch || fail "larder did not start after a kill"
builder_start b
build b "$CONTEXTS/chain" "${from[@]}" --output type=local,dest=pulled
assert_all_cached 4
diff -r --no-dereference made pulled >/dev/null || fail "content differs after a kill"

# An upload of which the second half is sent when the server has begun to stop.
head -c 2000000 /dev/urandom >blob
digest=sha256:$(sha256sum blob | cut -d' ' -f1)
location=$(curl -fsS -D - -o /dev/null -X POST -H 'Content-Length: 0' "http://$LARDER/v2/drain/blobs/uploads/" |
  tr -d '\r' | sed -nE 's/^location: *//Ip')
[[ $location == http* ]] || location=http://$LARDER$location
[[ $location == *\?* ]] && location+="&digest=$digest" || location+="?digest=$digest"
halves() {
  head -c 1000000 blob
  until [ -e stopping ]; do sleep 0.05; done
  tail -c 1000000 blob
}
halves | curl -sS -o upload.body -w '%{http_code}' -X PUT -T - -H 'Content-Length: 2000000' -H 'Transfer-Encoding:' \
  -H 'Expect:' -H 'Content-Type: application/octet-stream' "$location" >upload.status &
upload=$!
# With the request that asks for it, two.
under_way() { [ "$(curl -fsS "http://$LARDER/metrics" | sed -n 's/^larder_requests_in_flight //p')" -ge 2 ]; }
eventually 60 under_way || fail "the upload does not begin"
server=$(pid_of larder-main)
kill -TERM "$server"
eventually 60 not larder_ready || fail "the server takes new requests when it was told to stop"
touch stopping
wait $upload || fail "the upload was cut by the stop"
assert_eq "$(cat upload.status)" 201 "status of the upload during the stop"

# `wait` gives the exit status, as the server is a child of this shell.
status=0
wait "$server" || status=$?
rm -f "$WORK/pids/larder-main"
assert_eq $status 0 "exit status after SIGTERM"

larder_launch || fail "larder did not start after a stop"
assert_eq "$(curl -fsS "http://$LARDER/v2/drain/blobs/$digest" | sha256sum | cut -d' ' -f1)" "${digest#*:}" "blob uploaded during the stop"
