# shellcheck shell=bash
# stores: s3
# The bucket is gone for a while. What is hot is served on, the rest is refused
# in bounded time, readiness says so, and when the bucket is back everything
# goes on by itself. A build in a short outage is slower, and succeeds.

larder_start
base_push
ref=$LARDER/cache/chain:latest
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")
builder_start a
build a "$CONTEXTS/chain" "${to[@]}" --output type=local,dest=made
keyed_bytes 1 10000000 >blob
digest=$(INSTANCE=other STORE=main larder_start && put_blob "$LARDER/cold" blob)
INSTANCE=other larder_stop
LARDER=$(larder_address)
hot=$(manifest_of "$ref" | jq -r '.layers[-1].digest')
curl -fsS "http://$LARDER/v2/cache/chain/blobs/$hot" -o hot-layer

# "status seconds"
answer() { curl -sS -m 90 -w '%{http_code} %{time_total}\n' "$@" || true; }
refused_within() { # seconds what curl-arguments
  local limit=$1 what=$2 status seconds
  shift 2
  read -r status seconds < <(answer -o /dev/null "$@")
  note "$what: $status after $seconds s"
  assert_eq "$status" 503 "$what"
  jq -en "$seconds <= $limit" >/dev/null || fail "$what took $seconds s, more than $limit"
}
outage() { # what-happened
  local jobs=() job
  assert_eq "$(answer -o again "http://$LARDER/v2/cache/chain/blobs/$hot" | cut -d' ' -f1)" 200 "$1, a hot layer"
  assert_file_eq again hot-layer "$1, a hot layer"
  # The patience for a layer, and one call more.
  refused_within 20 "$1, a cold blob" "http://$LARDER/v2/cold/blobs/$digest" &
  jobs+=($!)
  if [ -n "$FULL" ]; then
    # Builders do not ask for these again.
    refused_within 60 "$1, a tag" "http://$LARDER/v2/cache/chain/manifests/latest" &
    jobs+=($!)
  fi
  for job in "${jobs[@]}"; do wait "$job" || fail "outage: $1"; done
  # A good answer is given for some seconds.
  eventually 10 not larder_ready || fail "$1: ready all the same"
  refused_within 10 "$1, readiness" "http://$LARDER/readyz"
  assert_eq "$(curl -sS -o /dev/null -w '%{http_code}' "http://$LARDER/healthz")" 200 "$1, health"
}
recovered() { # what-happened
  eventually 60 larder_ready || fail "$1: not ready again"
  assert_eq "$(curl -fsS "http://$LARDER/v2/cold/blobs/$digest" | sha256sum | cut -d' ' -f1)" "${digest#*:}" "$1, the cold blob afterwards"
}

server=$(pid_of s3)
kill -STOP "$server"
outage "bucket hangs"
kill -CONT "$server"
recovered "bucket hangs"
larder_restart
curl -fsS "http://$LARDER/v2/cache/chain/blobs/$hot" -o hot-layer

stop_process s3 KILL
outage "bucket is down"
s3_launch || fail "the S3 server did not start again"
recovered "bucket is down"

# Eight seconds are more than BuildKit itself is patient with a layer.
builder_prune a
larder_restart
stop_process s3 KILL
build a "$CONTEXTS/chain" "${from[@]}" "${to[@]}" --output type=local,dest=pulled &
building=$!
sleep 8
s3_launch || fail "the S3 server did not start again"
wait $building || fail "the build in a short outage failed"
BUILD_LOG=$(find "$WORK/builds" -name '*.json' -printf '%T@ %p\n' | sort -rn | sed -n 1p | cut -d' ' -f2)
assert_all_cached 4
diff -r --no-dereference made pulled >/dev/null || fail "content differs after an outage"
note "a build in an outage of 8 s: every step CACHED"
