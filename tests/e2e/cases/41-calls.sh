# shellcheck shell=bash
# stores: s3
# What Larder asks of a bucket while a real BuildKit exports and imports, counted
# on the wire between them. A call costs money and 20 ms.

budget() { # calls-allowed what
  local calls line
  calls=$(s3_call_count)
  note "$2: $calls calls of at most $1"
  while read -r line; do note "  $line"; done < <(s3_calls)
  assert_at_most "$calls" "$1" "$2"
  proxy_forget
}

# The base image comes from elsewhere.
STORE_KIND=fs INSTANCE=images larder_start
base_push
s3_start
proxy_start "$S3"
S3_VIA=$PROXY
# A collection may come in between, and has a budget of its own.
quiet='[collect]
enabled = false'
larder_start "$quiet"
ref=$LARDER/cache/ten:latest

# With the layer of the base these are ten.
mkdir ten
{
  printf 'ARG BASE\nFROM ${BASE}\n'
  for n in 1 2 3 4 5 6 7 8 9; do echo "RUN dd if=/dev/urandom of=/$n bs=1M count=1"; done
} >ten/Dockerfile
mapfile -t to < <(cache_to "$ref" mode=max)
mapfile -t from < <(cache_from "$ref")
builder_start a
proxy_forget
build a ten "${to[@]}"
budget 27 "export of 10 new layers"
# What the tag serves after a push is made when it is first asked for.
build a ten "${to[@]}"
budget 4 "export again, the tag is asked for first"
build a ten "${to[@]}"
budget 1 "export again, nothing changed"
builder_prune a
build a ten "${from[@]}" --output type=local,dest=pulled
assert_all_cached 9
budget 2 "import with all its layers, hot"

INSTANCE=cold STORE=main larder_start "$quiet" '[hot]' 'size = "1GiB"'
mapfile -t from < <(cache_from "$LARDER/cache/ten:latest")
builder_prune a
proxy_forget
build a ten "${from[@]}"
assert_all_cached 9
budget 16 "first import by a cold replica, without its 10 layers"

# A blob of n parts.
bytes=$((${FULL:+256} + 0))
[ $bytes -gt 0 ] || bytes=64
bytes=$((bytes << 20))
keyed_bytes 1 $bytes >blob
LARDER=$(larder_address)
proxy_forget
digest=$(put_blob "$LARDER/big" blob)
budget $((bytes / (8 << 20) + 3)) "push of a blob of $((bytes / (8 << 20))) parts"

# Every reader at once, from a replica that has not seen it.
LARDER=$(INSTANCE=cold larder_address)
proxy_forget
clients=()
for n in {1..64}; do
  curl -fsS -o /dev/null -w '%{size_download}\n' "http://$LARDER/v2/big/blobs/$digest" >"read-$n" &
  clients+=($!)
done
for client in "${clients[@]}"; do wait "$client" || fail "a reader failed"; done
cat read-* >reads
assert_eq "$(sort reads | uniq -c | xargs)" "64 $bytes" "bytes of the readers"
fetched=$(proxy_sum '.method == "GET" and (.path | contains("/blobs/"))' bytes_out)
note "64 readers of one cold blob of $bytes bytes: $fetched bytes fetched"
assert_eq "$fetched" $bytes "bytes fetched for 64 readers"
assert_eq "$(curl -fsS "http://$LARDER/v2/big/blobs/$digest" | sha256sum | cut -d' ' -f1)" "${digest#*:}" "the blob"
