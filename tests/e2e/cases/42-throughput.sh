# shellcheck shell=bash
# stores: s3
# S3 answers after 20 ms and gives one connection 40 MB a second. A large blob that
# is not in memory comes faster through Larder than by one GET: it is fetched in
# several parts at once.

mib=${FULL:+1024}
mib=${mib:-256}
bytes=$((mib << 20))
# Pushed past the slow line.
INSTANCE=pusher STORE=shared larder_start
keyed_bytes 1 $bytes >blob
digest=$(put_blob "$LARDER/big" blob)
rm blob
INSTANCE=pusher larder_stop

proxy_start "$S3" -delay 20ms -rate 40000000
S3_VIA=$PROXY
STORE=shared larder_start
# Seconds, of an answer that is whole.
timed() { # curl arguments
  local seconds size
  read -r seconds size < <("$@" -o /dev/null -w '%{time_total} %{size_download}\n')
  assert_eq "$size" $bytes "bytes received" >&2
  echo "$seconds"
}
hex=${digest#*:}
plain=$(timed s3_curl "shared/t/default/blobs/sha256/${hex:0:2}/$hex")
cold=$(timed curl -fsS "http://$LARDER/v2/big/blobs/$digest")
ratio=$(jq -n "$plain / $cold * 100 | round / 100")
note "$mib MiB: one GET $plain s, through Larder $cold s, $ratio times as fast"
if [ -n "$FULL" ]; then jq -en "$ratio >= 3" >/dev/null || fail "only $ratio times as fast as one GET"; fi
assert_eq "$(curl -fsS "http://$LARDER/v2/big/blobs/$digest" | sha256sum | cut -d' ' -f1)" "$hex" "the blob"
